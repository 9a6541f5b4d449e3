//! What admission is asked about that isn't kept: streams, evictions, bindings.

use apiserver::User;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A policy that denies what `expression` doesn't hold for.
async fn policy(server: &Server, name: &str, resource: &str, operation: &str, expression: &str) {
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": [resource]});
    server
        .create(
            &format!("{ADMISSION}/validatingadmissionpolicies"),
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": [rule]},
                    "validations": [{"expression": expression, "message": format!("{name} says no")}]}}),
        )
        .await;
    server
        .create(
            &format!("{ADMISSION}/validatingadmissionpolicybindings"),
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}),
        )
        .await;
}

async fn post(server: &Server, path: &str, body: &Value) -> (u16, String) {
    let request = Request::post(path).header("content-type", "application/json");
    let answer = server.send(request.body(Bytes::from(body.to_string())).unwrap()).await;
    let (code, _, bytes) = read(answer).await;
    (code.as_u16(), String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn streams_evictions_and_bindings_are_subject_to_policies() {
    let server = Server::start().await;
    server.create_account().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create(PODS, pod).await;
    policy(
        &server,
        "exec",
        "pods/exec",
        "CONNECT",
        "object.command[0] != 'sh' && request.kind.kind == 'PodExecOptions'",
    )
    .await;
    policy(&server, "evict", "pods/eviction", "CREATE", "request.kind.group != 'policy'").await;
    policy(&server, "bind", "pods/binding", "CREATE", "object.target.name != 'forbidden'").await;

    let exec = |command: &str| format!("{PODS}/p/exec?command={command}&container=c&stdout=true");
    let (code, body) = post(&server, &exec("sh"), &json!({})).await;
    assert!(code == 422 && body.contains("exec says no"), "{code} {body}");
    let (code, body) = post(&server, &exec("ls"), &json!({})).await;
    assert!(code == 400 && body.contains("does not have a host"), "it is let through to the kubelet: {code} {body}");

    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (code, body) = post(&server, &format!("{PODS}/p/eviction"), &eviction).await;
    assert!(code == 422 && body.contains("evict says no"), "{code} {body}");

    let bind = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let (code, body) = post(&server, &format!("{PODS}/p/binding"), &bind("forbidden")).await;
    assert!(code == 422 && body.contains("bind says no"), "{code} {body}");
    let (code, body) = post(&server, &format!("{PODS}/p/binding"), &bind("n")).await;
    assert_eq!(code, 201, "{body}");
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_never_taken_away() {
    let server = Server::start().await;
    server.create_account().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create(PODS, pod).await;
    let patch = |body: Value| {
        let server = &server;
        async move { server.json("PATCH", &format!("{PODS}/p/ephemeralcontainers"), &body).await }
    };
    let (code, pod) = patch(json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}})).await;
    assert_eq!(code, 200, "{pod}");
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File", "defaults are filled in");
    assert_eq!(pod["metadata"]["generation"], 2);
    for (body, why) in [
        (json!({"spec": {"ephemeralContainers": []}}), "may not be removed"),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}, {"name": "f", "image": "i", "targetContainerName": "bogus"}]}}),
            "spec.ephemeralContainers[1].targetContainerName: Not found: \"bogus\"",
        ),
        (json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "other"}]}}), "may not be changed"),
    ] {
        let (code, answer) = patch(body).await;
        assert!(code == 422 && answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    // Nor by the pod itself.
    let (code, answer) =
        server.json("PATCH", &format!("{PODS}/p"), &json!({"spec": {"ephemeralContainers": null}})).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["spec"]["ephemeralContainers"][0]["name"], "e");
    let viewer = User::new("viewer", &["system:authenticated"]);
    let request = Request::patch(format!("{PODS}/p/ephemeralcontainers")).body(Bytes::new()).unwrap();
    assert_eq!(server.send_as(&viewer, request).await.status(), 403);
}
