//! Objects of every kind, from their creation to their end, by every verb that their kind has (upstream's "… API operations" and "… lifecycle"
//! of each kind in its conformance suite).

use serde_json::{Value, json};

use crate::server::Server;

/// A resource as discovery tells of it.
struct Resource {
    version: String,
    plural: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
    subresources: Vec<String>,
}

async fn resources(server: &Server) -> Vec<Resource> {
    let mut versions = vec!["v1".to_string()];
    for group in server.read("/apis").await["groups"].as_array().unwrap() {
        let listed = group["versions"].as_array().unwrap().iter();
        versions.extend(listed.map(|version| version["groupVersion"].as_str().unwrap().to_string()));
    }
    let mut all = Vec::new();
    for version in versions.into_iter().filter(|version| !version.starts_with("metrics.k8s.io/")) {
        let listed = server.read(&root(&version)).await;
        let listed = listed["resources"].as_array().unwrap();
        for resource in listed.iter().filter(|resource| !resource["name"].as_str().unwrap().contains('/')) {
            let text = |key: &str| resource[key].as_str().unwrap().to_string();
            let below = format!("{}/", text("name"));
            all.push(Resource {
                version: version.clone(),
                plural: text("name"),
                kind: text("kind"),
                namespaced: resource["namespaced"] == true,
                verbs: resource["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().into()).collect(),
                subresources: listed
                    .iter()
                    .filter_map(|r| r["name"].as_str()?.strip_prefix(&below).map(String::from))
                    .collect(),
            });
        }
    }
    all
}

fn root(version: &str) -> String {
    if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") }
}

/// The examples, whose places for what can't be written down are filled in.
fn examples() -> Vec<Value> {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let folder = tempfile::tempdir().unwrap();
    let authority = pki::Authority::load_or_create(folder.path(), "ca").unwrap();
    let request = pki::create_certificate_request(&pki::new_key().unwrap(), "x", "x", &[]).unwrap();
    let stub = pki::new_key_and_request(pki::KeyType::Ed25519).unwrap().request;
    let text = include_str!("lives.yaml")
        .replace("AUTHORITY", &json!(authority.certificate_pem()).to_string())
        .replace("REQUEST", &encode(request.as_bytes()))
        .replace("STUB", &encode(&stub));
    text.split("---\n").map(|one| apimachinery::yaml::from_str(one).unwrap_or_else(|e| panic!("{one}: {e}"))).collect()
}

/// An example as the object of this number.
fn numbered(example: &Value, number: usize) -> Value {
    let name = format!("life{number}");
    let text = example.to_string().replace("NAME", &name).replace("NUMBER", &number.to_string());
    let mut object: Value = serde_json::from_str(&text).unwrap();
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = name.into();
    }
    object["metadata"]["labels"] = json!({"life": "one"});
    object
}

#[tokio::test]
async fn every_kind_lives_its_whole_life() {
    let server = Server::start().await;
    server.create_account().await;
    let examples = examples();
    let (mut lived, mut missing) = (0, Vec::new());
    for resource in resources(&server).await {
        let is = |object: &&Value| {
            object["apiVersion"] == resource.version.as_str() && object["kind"] == resource.kind.as_str()
        };
        let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
        match examples.iter().find(is) {
            Some(example) => {
                live(&server, &resource, example).await;
                lived += 1;
            }
            // Reviews and bindings aren't kept, and a namespace isn't deleted with others: it has tests of its own.
            None if !has("deletecollection") => {}
            None => missing.push(format!("{} {}", resource.version, resource.kind)),
        }
    }
    assert!(missing.is_empty(), "no example of {}", missing.join(", "));
    assert_eq!(lived, examples.len(), "each example is of a kind that is served");
}

/// Reads an object, changes it and writes it back; once more if the server itself wrote it meanwhile, as it does the status of an APIService.
async fn put(server: &Server, path: &str, change: impl Fn(&mut Value)) -> Value {
    for _ in 0..5 {
        let mut object = server.read(path).await;
        change(&mut object);
        let (code, answer) = server.json("PUT", path, &object).await;
        if code != 409 {
            assert_eq!(code, 200, "{path}: {answer}");
            return answer;
        }
    }
    panic!("{path}: others are always faster");
}

/// Takes the finalizers of an object that is to go: they are those of controllers that aren't here.
async fn free(server: &Server, path: &str) {
    let (code, answer) = server.patch(path, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await;
    assert!(code == 200 || code == 404, "{path}: {answer}");
}

async fn live(server: &Server, resource: &Resource, example: &Value) {
    let all = format!("{}/{}", root(&resource.version), resource.plural);
    let path = match resource.namespaced {
        true => format!("{}/namespaces/default/{}", root(&resource.version), resource.plural),
        false => all.clone(),
    };
    let of = format!("{} {}", resource.version, resource.kind);
    let selected = "labelSelector=life%3Done";
    let begin =
        server.read(&format!("{path}?{selected}")).await["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut watch = server.watch(&format!("{path}?watch=true&{selected}&resourceVersion={begin}")).await;
    let made = server.create(&path, numbered(example, 1)).await;
    let name = made["metadata"]["name"].as_str().unwrap().to_string();
    let one = format!("{path}/{name}");
    assert_eq!(server.read(&one).await["metadata"]["uid"], made["metadata"]["uid"], "{of}");
    for list in [&path, &all] {
        let items = server.read(&format!("{list}?{selected}")).await["items"].clone();
        assert_eq!(items.as_array().unwrap().len(), 1, "{of}");
    }
    let change = json!({"metadata": {"annotations": {"changed": "by a patch"}}});
    let (code, changed) = server.patch(&one, "merge-patch+json", &change).await;
    assert_eq!(
        (code.as_u16(), &changed["metadata"]["annotations"]["changed"]),
        (200, &json!("by a patch")),
        "{of}: {changed}"
    );
    let updated =
        put(server, &one, |object| object["metadata"]["annotations"]["changed"] = "by an update".into()).await;
    assert_eq!(updated["metadata"]["annotations"]["changed"], "by an update", "{of}: {updated}");
    if resource.subresources.iter().any(|sub| sub == "status") {
        let status = format!("{one}/status");
        let shown = server.read(&status).await;
        assert_eq!(shown["metadata"]["uid"], made["metadata"]["uid"], "{of}");
        put(server, &status, |_| ()).await;
        let (code, answer) = server.patch(&status, "merge-patch+json", &json!({"status": shown["status"]})).await;
        assert_eq!(code, 200, "{of}: {answer}");
    }
    let applied = json!({"apiVersion": resource.version, "kind": resource.kind, "metadata": {"name": name, "labels": {"applied": "yes"}}});
    let (code, answer) = server.patch(&format!("{one}?fieldManager=test"), "apply-patch+yaml", &applied).await;
    assert_eq!((code.as_u16(), &answer["metadata"]["labels"]["applied"]), (200, &json!("yes")), "{of}: {answer}");
    let (code, answer) = server.json("DELETE", &format!("{one}?propagationPolicy=Background"), &Value::Null).await;
    assert_eq!(code, 200, "{of}: {answer}");
    free(server, &one).await;
    assert_eq!(server.json("GET", &one, &Value::Null).await.0, 404, "{of}");
    let mut others = Vec::new();
    for number in [2, 3] {
        let made = server.create(&path, numbered(example, number)).await;
        others.push(format!("{path}/{}", made["metadata"]["name"].as_str().unwrap()));
    }
    let (code, answer) =
        server.json("DELETE", &format!("{path}?{selected}&propagationPolicy=Background"), &Value::Null).await;
    assert_eq!(code, 200, "{of}: {answer}");
    for one in &others {
        free(server, one).await;
    }
    assert_eq!(server.read(&format!("{path}?{selected}")).await["items"], json!([]), "{of}");
    let (mut added, mut deleted) = (0, 0);
    while deleted < 3 {
        let event = watch.next().await.unwrap_or_else(|| panic!("{of}: the watch ended"));
        match event["type"].as_str().unwrap() {
            "ADDED" => added += 1,
            "DELETED" => deleted += 1,
            "MODIFIED" => {}
            other => panic!("{of}: {other}"),
        }
    }
    assert_eq!(added, 3, "{of}");
}

#[tokio::test]
async fn a_namespace_is_changed_held_and_told() {
    let server = Server::start().await;
    let one = "/api/v1/namespaces/life";
    server
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "life"}}))
        .await;
    let merge = "merge-patch+json";
    let (code, answer) = server.patch(one, merge, &json!({"metadata": {"labels": {"a": "patched"}}})).await;
    assert_eq!((code.as_u16(), &answer["metadata"]["labels"]["a"]), (200, &json!("patched")), "{answer}");
    let mut update = server.read(one).await;
    update["metadata"]["labels"]["a"] = "updated".into();
    let (code, answer) = server.json("PUT", one, &update).await;
    assert_eq!((code.as_u16(), &answer["metadata"]["labels"]["a"]), (200, &json!("updated")), "{answer}");
    let condition = json!({"type": "Told", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let (code, answer) =
        server.patch(&format!("{one}/status"), merge, &json!({"status": {"conditions": [condition]}})).await;
    assert_eq!((code.as_u16(), &answer["status"]["conditions"][0]["type"]), (200, &json!("Told")), "{answer}");
    let mut status = server.read(one).await;
    status["status"]["conditions"][0]["message"] = "updated".into();
    let (code, answer) = server.json("PUT", &format!("{one}/status"), &status).await;
    assert_eq!((code.as_u16(), &answer["status"]["conditions"][0]["message"]), (200, &json!("updated")), "{answer}");
    let mut held = server.read(one).await;
    held["spec"]["finalizers"].as_array_mut().unwrap().push("example.com/held".into());
    let (code, answer) = server.json("PUT", &format!("{one}/finalize"), &held).await;
    assert_eq!(
        (code.as_u16(), &answer["spec"]["finalizers"]),
        (200, &json!(["kubernetes", "example.com/held"])),
        "{answer}"
    );
    let (code, answer) = server.json("DELETE", one, &Value::Null).await;
    assert_eq!((code.as_u16(), &answer["status"]["phase"]), (200, &json!("Terminating")), "{answer}");
    let mut freed = server.read(one).await;
    freed["spec"]["finalizers"] = json!(["kubernetes"]);
    let (code, answer) = server.json("PUT", &format!("{one}/finalize"), &freed).await;
    assert_eq!((code.as_u16(), &answer["spec"]["finalizers"]), (200, &json!(["kubernetes"])), "{answer}");
}

#[tokio::test]
async fn watches_that_begin_at_different_times_hear_the_same_in_one_order() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let begin = server.read(path).await["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut made = Vec::new();
    for number in 0..10 {
        let name = format!("m{}", number * 7 % 10);
        made.push(format!("ADDED {name}"));
        server.create(path, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})).await;
        let mut late = server.watch(&format!("{path}?watch=true&resourceVersion={begin}")).await;
        assert_eq!(late.told(made.len()).await, made);
    }
}
