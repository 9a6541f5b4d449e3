//! What clients learn before they ask for objects: groups, resources, schemas, version, health.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn both_sorts_of_discovery_tell_the_same() {
    let server = Server::start().await;
    let (_, kind, core) = server.get("/api", AGGREGATED).await;
    assert!(kind.contains("as=APIGroupDiscoveryList"), "{kind}");
    let (_, _, groups) = server.get("/apis", AGGREGATED).await;
    let items = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).unwrap()["items"].as_array().unwrap().clone();
    let mut seen = 0;
    for group in items(&core).into_iter().chain(items(&groups)) {
        let name = group["metadata"]["name"].as_str().unwrap_or("");
        for version in group["versions"].as_array().unwrap() {
            assert_eq!(version["freshness"], "Current");
            let version_name = version["version"].as_str().unwrap();
            let path =
                if name.is_empty() { format!("/api/{version_name}") } else { format!("/apis/{name}/{version_name}") };
            let flat = server.read(&path).await;
            assert_eq!(flat["kind"], "APIResourceList");
            let flat = flat["resources"].as_array().unwrap();
            let find =
                |name: &str| flat.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("{path} lacks {name}"));
            let mut count = 0;
            for resource in version["resources"].as_array().unwrap() {
                let plural = resource["resource"].as_str().unwrap();
                let old = find(plural);
                count += 1;
                assert_eq!(old["kind"], resource["responseKind"]["kind"], "{path} {plural}");
                assert_eq!(old["namespaced"], resource["scope"] == "Namespaced", "{path} {plural}");
                assert_eq!(old["singularName"], resource["singularResource"], "{path} {plural}");
                for list in ["verbs", "shortNames", "categories"] {
                    assert_eq!(old.get(list), resource.get(list), "{path} {plural} {list}");
                }
                for sub in resource["subresources"].as_array().into_iter().flatten() {
                    let full = format!("{plural}/{}", sub["subresource"].as_str().unwrap());
                    assert_eq!(find(&full)["verbs"], sub["verbs"], "{path} {full}");
                    count += 1;
                }
            }
            assert_eq!(count, flat.len(), "{path} has no more than that");
            seen += count;
        }
    }
    assert!(seen > 100, "{seen}");
    let listed = server.read("/apis").await;
    assert_eq!(listed["kind"], "APIGroupList");
    for group in listed["groups"].as_array().unwrap() {
        let one = server.read(&format!("/apis/{}", group["name"].as_str().unwrap())).await;
        assert_eq!((&one["kind"], &one["versions"]), (&json!("APIGroup"), &group["versions"]));
        assert_eq!(one["preferredVersion"], group["versions"][0]);
    }
    let core = server.read("/api").await;
    assert_eq!((&core["kind"], &core["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    // The old beta of the aggregated form isn't spoken: the plain one comes.
    let (_, kind, _) =
        server.get("/apis", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=Other,application/json").await;
    assert_eq!(kind, "application/json");
}

#[tokio::test]
async fn discovery_is_sent_once_as_long_as_nothing_changes() {
    let server = Server::start().await;
    let ask = |path: &'static str, known: String| {
        let request = Request::get(path).header("accept", AGGREGATED).header("if-none-match", known);
        server.send(request.body(Bytes::new()).unwrap())
    };
    let first = ask("/apis", String::new()).await;
    let tag = first.headers()["etag"].to_str().unwrap().to_string();
    assert_eq!(ask("/apis", tag.clone()).await.status(), 304);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "xs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "description": "What you want"}}}}}]}});
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    assert_eq!(ask("/apis", tag).await.status(), 200);
    assert_eq!(server.read("/apis/example.com/v1").await["resources"][0]["name"], "xs");
    let paths = server.read("/openapi/v3").await;
    let url = paths["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_string();
    let document = server.read(&url).await;
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let (_, schema) = schemas.iter().find(|(name, _)| name.ends_with(".X")).unwrap();
    assert_eq!(schema["properties"]["spec"]["description"], "What you want");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "X");
}

#[tokio::test]
async fn schemas_are_published_for_every_kind() {
    let server = Server::start().await;
    let index = server.read("/openapi/v3").await;
    let paths = index["paths"].as_object().unwrap();
    let mut found = std::collections::BTreeSet::new();
    for (name, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.contains("?hash="), "{url}");
        let answer = server.send(Request::get(url).body(Bytes::new()).unwrap()).await;
        // Whoever asks with the hash may keep it for good.
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{name}");
        let tag = answer.headers()["etag"].clone();
        let (_, _, body) = read(answer).await;
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{name}");
        for schema in document["components"]["schemas"].as_object().unwrap().values() {
            for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let text = |key: &str| kind[key].as_str().unwrap_or("").to_string();
                found.insert((text("group"), text("version"), text("kind")));
            }
        }
        let known = Request::get(url).header("if-none-match", tag).body(Bytes::new()).unwrap();
        assert_eq!(server.send(known).await.status(), 304, "{name}");
    }
    for kind in api::KINDS.iter().chain(api::OLDER) {
        let key = (kind.group.to_string(), kind.version.to_string(), kind.kind.to_string());
        assert!(found.contains(&key), "{key:?} has no schema");
    }
    let pods = server.read("/openapi/v3/api/v1").await;
    let container = &pods["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(container["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(container["x-kubernetes-list-type"], "map");
    let v2 = server.read("/openapi/v2").await;
    assert_eq!(v2["swagger"], "2.0");
    assert!(v2["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"].is_object());
    assert!(
        v2["definitions"]["io.k8s.api.core.v1.Pod"]["description"].as_str().unwrap().contains("Pod is a collection")
    );
    let (code, kind, body) =
        server.get("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert!(code == 200 && kind.contains("proto-openapi") && body.len() > 100_000, "{code} {kind} {}", body.len());
    assert_eq!(server.get("/openapi/v3/apis/nowhere/v1", "*/*").await.0, 404);
}

#[tokio::test]
async fn health_and_version_are_open_to_all() {
    let server = Server::start().await;
    let nobody = apiserver::User::new("system:anonymous", &["system:unauthenticated"]);
    let ask = |path: &'static str| {
        let (server, nobody) = (&server, nobody.clone());
        async move {
            let answer = server.send_as(&nobody, Request::get(path).body(Bytes::new()).unwrap()).await;
            let (code, _, body) = read(answer).await;
            (code.as_u16(), String::from_utf8_lossy(&body).into_owned())
        }
    };
    for (path, code, text) in [
        ("/healthz", 200, "ok"),
        ("/livez", 200, "ok"),
        ("/readyz", 200, "ok"),
        ("/readyz?verbose", 200, "[+]ping ok\n[+]store ok\nreadyz check passed\n"),
        ("/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"),
        ("/readyz?verbose&exclude=store", 200, "[+]ping ok\n[+]store excluded: ok\nreadyz check passed\n"),
        ("/metrics", 403, ""),
        ("/api", 403, ""),
        ("/openapi/v2", 403, ""),
        (
            "/api/v1/namespaces",
            403,
            "namespaces is forbidden: User \\\"system:anonymous\\\" cannot list resource \\\"namespaces\\\" in API group \\\"\\\" at the cluster scope",
        ),
    ] {
        let (got, body) = ask(path).await;
        assert_eq!(got, code, "{path}: {body}");
        assert!(if code == 200 { body == text } else { body.contains(text) }, "{path}: {body}");
    }
    for (path, code) in [
        ("/readyz/ping", 200),
        ("/readyz/store", 200),
        ("/readyz/etcd", 200),
        ("/livez/etcd", 404),
        ("/readyz/moon", 404),
    ] {
        assert_eq!(server.get(path, "*/*").await.0, code, "{path}");
    }
    let (code, version) = ask("/version").await;
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!((code, &version["major"], &version["minor"]), (200, &json!("1"), &json!("37")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.37."), "{version}");
    server.read("/api/v1/namespaces/default").await;
    let _watch = server.watch("/api/v1/pods?watch=1").await;
    let (_, kind, metrics) = server.get("/metrics", "*/*").await;
    assert!(kind.starts_with("text/plain"), "{kind}");
    let metrics = String::from_utf8_lossy(&metrics);
    for line in [
        "apiserver_storage_objects{resource=\"namespaces\"} 4",
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"namespaces\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1",
        "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} ",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.lines().any(|l| l.starts_with(line)), "{line} isn't in\n{metrics}");
    }
}

#[tokio::test]
async fn the_parts_of_the_control_plane_have_a_status() {
    let server = Server::start().await;
    let path = "/api/v1/componentstatuses";
    let states = async || {
        let list = server.read(path).await;
        assert_eq!((&list["kind"], &list["metadata"]), (&json!("ComponentStatusList"), &json!({})));
        let state = |item: &Value| {
            let condition = &item["conditions"][0];
            assert_eq!(condition["type"], "Healthy");
            let text = |value: &Value| value.as_str().unwrap_or("").to_string();
            format!(
                "{} {} {}",
                text(&item["metadata"]["name"]),
                text(&condition["status"]),
                text(&condition["message"])
            )
        };
        list["items"].as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    let absent = "it doesn't run in this process";
    let without =
        [format!("controller-manager False {absent}"), format!("scheduler False {absent}"), "etcd-0 True ok".into()];
    assert_eq!(states().await, without);
    let client = server.api.in_process(apiserver::User::new("system:kube-controller-manager", &[]));
    assert_eq!(states().await, ["controller-manager True ok", "scheduler True ok", "etcd-0 True ok"]);
    drop(client);
    assert_eq!(states().await, without);
    let one = server.read(&format!("{path}/etcd-0")).await;
    assert_eq!((&one["kind"], &one["conditions"][0]["status"]), (&json!("ComponentStatus"), &json!("True")));
    let selected = server.read(&format!("{path}?fieldSelector=metadata.name%3Dscheduler")).await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, _, bytes) = server.get(&format!("{path}/etcd-0"), table).await;
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    for (method, path, code) in [
        ("GET", "/api/v1/componentstatuses/other", 500),
        ("GET", "/api/v1/componentstatuses?watch=1", 405),
        ("POST", "/api/v1/componentstatuses", 405),
        ("DELETE", "/api/v1/componentstatuses/etcd-0", 405),
    ] {
        assert_eq!(server.json(method, path, &json!({})).await.0, code, "{method} {path}");
    }
}

#[tokio::test]
async fn deprecated_kinds_warn() {
    let server = Server::start().await;
    for (path, warning) in [
        ("/api/v1/componentstatuses", Some("299 - \"v1 ComponentStatus is deprecated in v1.19+\"")),
        (
            "/api/v1/namespaces/default/endpoints/kubernetes",
            Some("299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""),
        ),
        ("/api/v1/namespaces/default/services", None),
    ] {
        let answer = server.send(Request::get(path).body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.headers().get("warning").map(|w| w.to_str().unwrap()), warning, "{path}");
    }
}
