//! Bodies of every shape, to everything that takes one.

use bytes::Bytes;
use http::Request;
use serde_json::json;

use super::{CSR, T1, cluster, signing};
use crate::server::{Server, read};

#[tokio::test]
async fn bodies_of_any_shape_are_answered() {
    let server = cluster().await;
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    server.create("/apis/apps/v1/namespaces/t1/deployments", deployment).await;
    server.create(CSR, signing("a", "example.com/one", "someone", "dev", "client auth")).await;
    let mut paths: Vec<String> = ["status", "binding", "eviction", "ephemeralcontainers", "resize"]
        .iter()
        .map(|sub| format!("{T1}/pods/p/{sub}"))
        .collect();
    paths.extend(
        [
            "/api/v1/namespaces/t1",
            "/api/v1/namespaces/t1/finalize",
            "/api/v1/namespaces/t1/status",
            "/api/v1/namespaces/t1/pods",
            "/api/v1/namespaces/t1/pods/p",
            "/api/v1/namespaces/t1/bindings",
            "/api/v1/namespaces/t1/services/web",
            "/api/v1/namespaces/t1/services",
            "/api/v1/namespaces/t1/serviceaccounts/default/token",
            "/api/v1/nodes/n1/status",
            "/apis/apps/v1/namespaces/t1/deployments/d/scale",
            "/apis/apps/v1/namespaces/t1/deployments/d",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/approval",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/status",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        ]
        .map(String::from),
    );
    let mut shapes = vec![json!([]), json!("x"), json!(null), json!(7), json!({})];
    for part in ["metadata", "spec", "status", "target", "deleteOptions", "kind", "apiVersion"] {
        for value in [json!([]), json!("x"), json!(7), json!(true), json!({"x": []}), json!([[]])] {
            shapes.push(json!({ part: value }));
        }
    }
    for part in ["annotations", "labels", "finalizers", "ownerReferences", "name", "resourceVersion"] {
        shapes.extend([json!("x"), json!({"a": {}}), json!([7])].map(|value| json!({"metadata": {part: value}})));
    }
    for (outer, inner) in [
        ("spec", "boundObjectRef"),
        ("spec", "audiences"),
        ("spec", "expirationSeconds"),
        ("spec", "replicas"),
        ("spec", "containers"),
        ("spec", "ports"),
        ("spec", "resourceAttributes"),
        ("spec", "finalizers"),
        ("status", "conditions"),
        ("status", "addresses"),
    ] {
        shapes.extend(
            [json!("x"), json!({"a": {}}), json!([7]), json!([{"a": 1}])].map(|value| json!({outer: {inner: value}})),
        );
    }
    // What makes something else of an object.
    for path in [
        "",
        "/spec",
        "/metadata",
        "/metadata/name",
        "/status",
        "/spec/containers",
        "/spec/ephemeralContainers",
        "/status/conditions",
    ] {
        for value in [json!("x"), json!([7]), json!(null), json!({"a": {"b": "c"}})] {
            shapes.push(json!([{"op": "replace", "path": path, "value": value}]));
            shapes.push(json!([{"op": "add", "path": path, "value": value}]));
        }
        shapes.push(json!([{"op": "remove", "path": path}]));
    }
    shapes.push(json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i", "securityContext": "x"}]}}));
    for path in &paths {
        for shape in &shapes {
            for (method, media) in [
                ("POST", "application/json"),
                ("PUT", "application/json"),
                ("PATCH", "application/merge-patch+json"),
                ("PATCH", "application/strategic-merge-patch+json"),
                ("PATCH", "application/json-patch+json"),
                ("PATCH", "application/apply-patch+yaml"),
                ("DELETE", "application/json"),
            ] {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("{path}?dryRun=All&fieldManager=x"))
                    .header("content-type", media);
                let (code, _, answer) =
                    read(server.send(request.body(Bytes::from(shape.to_string())).unwrap()).await).await;
                // Nothing may fail that the server is to blame for; and what panics ends the test.
                assert!(
                    code.as_u16() < 500,
                    "{method} {media} {path} {shape}: {code} {}",
                    String::from_utf8_lossy(&answer)
                );
            }
        }
    }
}

#[tokio::test]
async fn a_review_has_no_table() {
    let server = Server::start().await;
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    for (accept, code) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", 406),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 201),
        ("application/json", 201),
    ] {
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header("content-type", "application/json")
            .header("accept", accept);
        let (got, _, answer) = read(server.send(request.body(Bytes::from(body.to_string())).unwrap()).await).await;
        assert_eq!(got, code, "{accept}: {}", String::from_utf8_lossy(&answer));
    }
}
