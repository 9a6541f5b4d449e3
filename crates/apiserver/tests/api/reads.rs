//! Gets and lists: pages, revisions, selectors, forms.

use std::io::Read as _;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(count: usize) -> Server {
    let server = Server::start_on_disk().await;
    for i in 0..count {
        let labels = json!({"half": if i % 2 == 0 { "even" } else { "odd" }, "n": i.to_string()});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}"), "labels": labels},
            "data": {"a": "b"}});
        server.create(MAPS, map).await;
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = with_maps(5).await;
    let first = server.read(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let revision = first["metadata"]["resourceVersion"].clone();
    // What changes between the pages isn't in them.
    let (code, _) = server.json("DELETE", &format!("{MAPS}/m3"), &json!({})).await;
    assert_eq!(code, 200);
    server.create(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m2a"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.read(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(second["metadata"]["resourceVersion"], revision);
    let token = second["metadata"]["continue"].as_str().unwrap().to_string();
    let third = server.read(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&third), ["m4"]);
    assert!(third["metadata"].get("continue").is_none() && third["metadata"].get("remainingItemCount").is_none());

    // With a selector nobody knows how many are left.
    let selected = server.read(&format!("{MAPS}?limit=1&labelSelector=half%3Deven")).await;
    assert_eq!(names(&selected), ["m0"]);
    assert!(selected["metadata"]["continue"].is_string() && selected["metadata"].get("remainingItemCount").is_none());
}

#[tokio::test]
async fn a_page_whose_revision_is_gone_comes_with_a_way_on() {
    let server = with_maps(5).await;
    let first = server.read(&format!("{MAPS}?limit=2")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, _) = server.json("DELETE", &format!("{MAPS}/m3"), &json!({})).await;
    assert_eq!(code, 200);
    let now = server.read(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.store.compact(now).await.unwrap();
    let (code, _, body) = server.get(&format!("{MAPS}?limit=2&continue={token}"), "application/json").await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code.as_u16(), &status["reason"]), (410, &json!("Expired")), "{status}");
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.read(&format!("{MAPS}?limit=9&continue={fresh}")).await;
    assert_eq!(names(&rest), ["m2", "m4"], "what is there now, from where the first page ended");
    let exactly = format!(
        "{MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    assert_eq!(server.get(&exactly, "application/json").await.0, 410);
}

#[tokio::test]
async fn lists_are_of_the_revision_that_is_asked_for() {
    let server = with_maps(2).await;
    let then = server.read(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    server.create(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}})).await;
    let all = ["later", "m0", "m1"];
    let far = "999999999";
    let cases: [(String, u16, &[&str]); 14] = [
        (String::new(), 200, &all),
        ("resourceVersion=0".into(), 200, &all),
        ("resourceVersion=0&limit=5".into(), 200, &all),
        (format!("resourceVersion={then}"), 200, &all),
        (format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"), 200, &all),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan".into(), 200, &all),
        (format!("resourceVersion={then}&resourceVersionMatch=Exact"), 200, &["m0", "m1"]),
        (format!("resourceVersion={then}&limit=5"), 200, &["m0", "m1"]),
        (format!("resourceVersion={far}"), 504, &[]),
        (format!("resourceVersion={far}&resourceVersionMatch=Exact"), 504, &[]),
        ("resourceVersionMatch=Exact".into(), 422, &[]),
        ("resourceVersion=0&resourceVersionMatch=Exact".into(), 422, &[]),
        (format!("resourceVersion={then}&resourceVersionMatch=About"), 422, &[]),
        ("sendInitialEvents=true".into(), 422, &[]),
    ];
    tokio::time::pause();
    for (query, want, found) in cases {
        let (code, _, body) = server.get(&format!("{MAPS}?{query}"), "application/json").await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(code.as_u16(), want, "{query}: {answer}");
        if want == 200 {
            assert_eq!(names(&answer), found, "{query}");
        } else {
            assert_eq!(answer["kind"], "Status", "{query}: {answer}");
        }
    }
    let (code, _, body) = server.get(&format!("{MAPS}/m0?resourceVersion={far}"), "application/json").await;
    assert!(code == 504 && String::from_utf8_lossy(&body).contains("Too large resource version"), "{body:?}");
}

#[tokio::test]
async fn selectors_select() {
    let server = with_maps(6).await;
    server.create_account().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, node, policy) in [("p0", "n0", "Always"), ("p1", "n1", "Never"), ("p2", "", "Never")] {
        let mut spec =
            json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}], "schedulerName": "other"});
        if !node.is_empty() {
            spec["nodeName"] = node.into();
        }
        server.create(pods, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})).await;
    }
    let (code, answer) = server
        .json(
            "PATCH",
            &format!("{pods}/p1/status"),
            &json!({"status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}}),
        )
        .await;
    assert_eq!(code, 200, "{answer}");
    let secrets = "/api/v1/namespaces/default/secrets";
    server.create(secrets, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s0"}})).await;
    let tls = json!({"tls.crt": "", "tls.key": ""});
    server
        .create(secrets, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s1"}, "type": "kubernetes.io/tls", "data": tls}))
        .await;
    let events = "/api/v1/namespaces/default/events";
    for (name, reason, kind) in [("e0", "Started", "Pod"), ("e1", "Failed", "Node")] {
        let about = json!({"kind": kind, "name": "x", "namespace": "default"});
        server
            .create(events, json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": reason, "type": "Normal", "involvedObject": about}))
            .await;
    }
    let cases: [(&str, &str, &[&str]); 30] = [
        (MAPS, "labelSelector=half=even", &["m0", "m2", "m4"]),
        (MAPS, "labelSelector=half==even", &["m0", "m2", "m4"]),
        (MAPS, "labelSelector=half!=even", &["m1", "m3", "m5"]),
        (MAPS, "labelSelector=n+in+(1,2)", &["m1", "m2"]),
        (MAPS, "labelSelector=n+notin+(1,2),half=even", &["m0", "m4"]),
        (MAPS, "labelSelector=half", &["m0", "m1", "m2", "m3", "m4", "m5"]),
        (MAPS, "labelSelector=!half", &[]),
        (MAPS, "labelSelector=n>3", &["m4", "m5"]),
        (MAPS, "labelSelector=n<1", &["m0"]),
        (MAPS, "labelSelector=missing!=x", &["m0", "m1", "m2", "m3", "m4", "m5"]),
        (MAPS, "fieldSelector=metadata.name=m1", &["m1"]),
        (MAPS, "fieldSelector=metadata.name!=m1,metadata.namespace=default", &["m0", "m2", "m3", "m4", "m5"]),
        (MAPS, "fieldSelector=metadata.name=m1,metadata.name=m2", &[]),
        ("/api/v1/configmaps", "fieldSelector=metadata.namespace=default,metadata.name=m3", &["m3"]),
        (pods, "fieldSelector=spec.nodeName=n0", &["p0"]),
        (pods, "fieldSelector=spec.nodeName=", &["p2"]),
        (pods, "fieldSelector=spec.nodeName!=", &["p0", "p1"]),
        (pods, "fieldSelector=spec.restartPolicy=Never", &["p1", "p2"]),
        (pods, "fieldSelector=spec.schedulerName=other", &["p0", "p1", "p2"]),
        (pods, "fieldSelector=spec.serviceAccountName=default", &["p0", "p1", "p2"]),
        (pods, "fieldSelector=spec.hostNetwork=false", &["p0", "p1", "p2"]),
        (pods, "fieldSelector=status.phase=Running", &["p1"]),
        (pods, "fieldSelector=status.phase=Pending", &["p0", "p2"]),
        (pods, "fieldSelector=status.podIP=10.0.0.9", &["p1"]),
        (pods, "fieldSelector=status.nominatedNodeName=", &["p0", "p1", "p2"]),
        (secrets, "fieldSelector=type=kubernetes.io/tls", &["s1"]),
        (events, "fieldSelector=reason=Failed", &["e1"]),
        (events, "fieldSelector=involvedObject.kind=Pod,involvedObject.name=x", &["e0"]),
        (events, "fieldSelector=type!=Warning", &["e0", "e1"]),
        ("/api/v1/namespaces", "fieldSelector=status.phase=Terminating", &[]),
    ];
    for (path, query, want) in cases {
        let query = query.replace('!', "%21").replace('>', "%3E").replace('<', "%3C");
        let list = server.read(&format!("{path}?{query}")).await;
        assert_eq!(names(&list), want, "{path}?{query}");
    }
}

#[tokio::test]
async fn objects_come_in_the_form_that_is_asked_for() {
    let server = with_maps(2).await;
    let one = format!("{MAPS}/m0");
    let json = |body: &Bytes| serde_json::from_slice::<Value>(body).unwrap();
    for version in ["v1", "v1beta1"] {
        let group = format!("meta.k8s.io/{version}");
        let table = format!("application/json;as=Table;v={version};g=meta.k8s.io");
        for (path, rows) in [(MAPS, 2), (one.as_str(), 1)] {
            for (include, kind) in [
                ("", "PartialObjectMetadata"),
                ("Metadata", "PartialObjectMetadata"),
                ("Object", "ConfigMap"),
                ("None", ""),
            ] {
                let (code, _, body) = server.get(&format!("{path}?includeObject={include}"), &table).await;
                let answer = json(&body);
                assert_eq!(
                    (code.as_u16(), &answer["kind"], &answer["apiVersion"]),
                    (200, &json!("Table"), &json!(group))
                );
                assert_eq!(answer["rows"].as_array().unwrap().len(), rows);
                assert_eq!(answer["rows"][0]["object"]["kind"].as_str().unwrap_or(""), kind, "{path} {include}");
                assert_eq!(answer["rows"][0]["cells"][0], "m0");
                assert_eq!(answer["columnDefinitions"][0]["name"], "Name");
            }
        }
        let partial = format!("application/json;as=PartialObjectMetadataList;v={version};g=meta.k8s.io");
        let (_, _, body) = server.get(MAPS, &partial).await;
        let answer = json(&body);
        assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!(group)));
        assert!(answer["items"][0].get("data").is_none() && answer["items"][0]["metadata"]["labels"]["n"] == "0");
        let (_, _, body) =
            server.get(&one, &format!("application/json;as=PartialObjectMetadata;v={version};g=meta.k8s.io")).await;
        assert_eq!(json(&body)["kind"], "PartialObjectMetadata");
    }
    let yaml = "application/yaml";
    for path in [MAPS, &one, "/apis", "/version", "/api/v1"] {
        let (code, kind, body) = server.get(path, yaml).await;
        assert_eq!((code.as_u16(), kind.as_str()), (200, yaml), "{path}");
        let read = apimachinery::yaml::first(&body, apimachinery::bounded::Limits::FILE).unwrap().value;
        // Of a list, the version is that of the moment: the server itself writes, too.
        let without_version = |mut answer: Value| {
            if answer["items"].is_array() {
                answer["metadata"]["resourceVersion"].take();
            }
            answer
        };
        assert_eq!(without_version(read), without_version(server.read(path).await), "{path}");
        assert!(!body.starts_with(b"{"), "{path}");
    }
    let (code, kind, body) = server.get(&format!("{MAPS}/gone"), yaml).await;
    assert_eq!((code.as_u16(), kind.as_str()), (404, yaml));
    assert!(body.starts_with(b"apiVersion: v1\n"), "{body:?}");
    for (path, accept) in
        [(MAPS, "text/html"), (&one, "application/xml, text/plain"), (&format!("{MAPS}?watch=1"), yaml)]
    {
        let (code, _, body) = server.get(path, accept).await;
        let status = json(&body);
        assert_eq!((code.as_u16(), &status["reason"]), (406, &json!("NotAcceptable")), "{path} {accept}");
        assert!(status["message"].as_str().unwrap().contains("application/json"), "{status}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_wants_it() {
    let server = Server::start().await;
    for i in 0..3 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}")},
            "data": {"text": "sing a song of sixpence ".repeat(3000)}});
        server.create(MAPS, map).await;
    }
    let get = |path: &str, coding: &str| {
        let request = Request::get(path).header("accept-encoding", coding).body(Bytes::new()).unwrap();
        server.send(request)
    };
    let plain = server.read(MAPS).await;
    let answer = get(MAPS, "br, gzip").await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let (_, _, body) = read(answer).await;
    let mut text = String::new();
    flate2::read::GzDecoder::new(body.as_ref()).read_to_string(&mut text).unwrap();
    assert!(body.len() * 10 < text.len());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), plain);
    for (path, coding) in [(MAPS, "identity"), (MAPS, "gzip;q=0"), ("/api/v1/namespaces/default/configmaps/m0", "gzip")]
    {
        let answer = get(path, coding).await;
        assert!(answer.headers().get("content-encoding").is_none(), "{path} {coding}");
    }
    let watch = get(&format!("{MAPS}?watch=1"), "gzip").await;
    assert!(watch.headers().get("content-encoding").is_none(), "events come at once");
}
