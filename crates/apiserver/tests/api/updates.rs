//! What an update and a deletion mean where the object isn't there, was changed by somebody else, or has dependents: upstream's
//! `AllowCreateOnUpdate`, `AllowUnconditionalUpdate` and `DefaultGarbageCollectionPolicy` for each kind.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test]
async fn an_update_makes_what_upstream_lets_it_make() {
    let server = Server::start().await;
    let role = json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "view"});
    for (path, kind, rest) in [
        ("/api/v1/namespaces/default/services", "Service", json!({"spec": {"ports": [{"port": 80}]}})),
        ("/api/v1/namespaces/default/endpoints", "Endpoints", json!({})),
        ("/api/v1/namespaces/default/limitranges", "LimitRange", json!({"spec": {"limits": []}})),
        (
            "/api/v1/namespaces/default/events",
            "Event",
            json!({"involvedObject": {"namespace": "default", "kind": "Pod", "name": "p"}, "reason": "R"}),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", "Lease", json!({"spec": {}})),
        ("/apis/node.k8s.io/v1/runtimeclasses", "RuntimeClass", json!({"handler": "runc"})),
        (&format!("{RBAC}/namespaces/default/roles"), "Role", json!({"rules": []})),
        (&format!("{RBAC}/clusterroles"), "ClusterRole", json!({"rules": []})),
        (&format!("{RBAC}/namespaces/default/rolebindings"), "RoleBinding", json!({"roleRef": role})),
        (&format!("{RBAC}/clusterrolebindings"), "ClusterRoleBinding", json!({"roleRef": role})),
    ] {
        let mut object = json!({"kind": kind, "metadata": {"name": "made"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let one = format!("{path}/made");
        let (code, dry) = server.json("PUT", &format!("{one}?dryRun=All"), &object).await;
        assert_eq!(code, 201, "{dry}");
        // One that has a uid is meant to be there.
        let mut known = object.clone();
        known["metadata"]["uid"] = "elsewhere".into();
        assert_eq!(server.json("PUT", &one, &known).await.0, 409, "{one}");
        object["metadata"]["resourceVersion"] = "7".into();
        let (code, made) = server.json("PUT", &one, &object).await;
        assert_eq!((code.as_u16(), &made["metadata"]["name"]), (201, &json!("made")), "{made}");
        let (code, again) = server.json("PUT", &one, &made).await;
        assert_eq!(code, 200, "{again}");
    }
    let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}});
    let (code, status) = server.json("PUT", "/api/v1/namespaces/default/configmaps/m", &map).await;
    assert_eq!((code.as_u16(), &status["reason"]), (404, &json!("NotFound")));
    // Who may update may not for that create.
    let updater = json!({"rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["update", "get"]}]});
    let mut updater = updater;
    updater["metadata"] = json!({"name": "updater"});
    server.create(&format!("{RBAC}/clusterroles"), updater).await;
    let binding = json!({"metadata": {"name": "updater"}, "subjects": [{"kind": "User", "name": "anna"}],
        "roleRef": {"kind": "ClusterRole", "name": "updater"}});
    server.create(&format!("{RBAC}/clusterrolebindings"), binding).await;
    let anna = apiserver::User::new("anna", &["system:authenticated"]);
    let service = json!({"kind": "Service", "metadata": {"name": "other"}, "spec": {"ports": [{"port": 80}]}});
    let (code, status) = server.json_as(&anna, "PUT", "/api/v1/namespaces/default/services/other", &service).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
}

#[tokio::test]
async fn an_update_says_what_it_was_made_from_where_upstream_asks_for_it() {
    let server = Server::start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({"kind": "CustomResourceDefinition", "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]}});
    let hook = json!({"name": "a.example.com", "clientConfig": {"url": "https://192.0.2.1"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": []});
    for (path, object) in [
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition),
        (
            "/apis/sea.example.com/v1/namespaces/default/boats",
            json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "b"}}),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1}}),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", json!({"kind": "Lease", "metadata": {"name": "l"}})),
        (
            "/apis/storage.k8s.io/v1/csinodes",
            json!({"kind": "CSINode", "metadata": {"name": "n"}, "spec": {"drivers": []}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "h"}, "webhooks": [hook]}),
        ),
    ] {
        let mut made = server.create(path, object).await;
        let one = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap());
        let version = made["metadata"].as_object_mut().unwrap().remove("resourceVersion").unwrap();
        let (code, status) = server.json("PUT", &one, &made).await;
        let words = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
        assert!(code == 422 && status["message"].as_str().unwrap().ends_with(words), "{status}");
        assert_eq!(status["details"]["causes"][0]["field"], "metadata.resourceVersion");
        // A patch is of what is there.
        assert_eq!(server.json("PATCH", &one, &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
        made["metadata"]["resourceVersion"] = version;
        assert_eq!(server.json("PUT", &one, &made).await.0, 409, "{one}");
    }
    let boat = "/apis/sea.example.com/v1/namespaces/default/boats/b";
    let status =
        json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "status": {"x": 1}});
    assert_eq!(server.json("PUT", &format!("{boat}/status"), &status).await.0, 422);
    let map = server.create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "m"}})).await;
    let mut blind = map.clone();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(server.json("PUT", "/api/v1/namespaces/default/configmaps/m", &blind).await.0, 200);
}

#[tokio::test]
async fn what_is_created_in_a_namespace_that_ends_is_told_so_by_a_cause() {
    let server = Server::start().await;
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "ends"}})).await;
    assert_eq!(server.json("DELETE", "/api/v1/namespaces/ends", &json!({})).await.0, 200);
    let (code, status) =
        server.json("POST", "/api/v1/namespaces/ends/configmaps", &json!({"metadata": {"name": "m"}})).await;
    assert_eq!(code, 403, "{status}");
    let cause = json!({"reason": "NamespaceTerminating", "message": "namespace ends is being terminated", "field": "metadata.namespace"});
    assert_eq!(status["details"]["causes"], json!([cause]), "{status}");
}

fn job(name: &str) -> Value {
    json!({"kind": "Job", "metadata": {"name": name, "finalizers": ["example.com/wait"]},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn dependents_of_jobs_stay_unless_somebody_said_what_becomes_of_them() {
    let server = Server::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let finalizers = async |name: &str| server.read(&format!("{jobs}/{name}")).await["metadata"]["finalizers"].clone();
    for name in ["a", "b", "c"] {
        server.create(jobs, job(name)).await;
    }
    // What was asked for before is kept by who asks for nothing.
    let foreground = json!({"propagationPolicy": "Foreground"});
    assert_eq!(server.json("DELETE", &format!("{jobs}/a"), &foreground).await.0, 200);
    let request = |path: &str| Request::delete(path).body(Bytes::new()).unwrap();
    let answer = server.send(request(&format!("{jobs}/a"))).await;
    assert!(answer.headers().get("warning").is_some_and(|w| w.to_str().unwrap().contains("preserved by default")));
    assert_eq!(finalizers("a").await, json!(["example.com/wait", "foregroundDeletion"]));
    // A collection's objects are deleted as one by one.
    let answer = server.send(request(jobs)).await;
    assert!(answer.headers().get("warning").is_some_and(|w| w.to_str().unwrap().contains("preserved by default")));
    assert_eq!(read(answer).await.0, 200);
    assert_eq!(finalizers("a").await, json!(["example.com/wait", "foregroundDeletion"]));
    assert_eq!(finalizers("b").await, json!(["example.com/wait", "orphan"]));
    let background = json!({"propagationPolicy": "Background"});
    assert_eq!(server.json("DELETE", jobs, &background).await.0, 200);
    assert_eq!(finalizers("c").await, json!(["example.com/wait"]));
}

#[tokio::test]
async fn subresources_are_told_as_tables() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    server.create(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (code, _, bytes) = server.get(&format!("{deployments}/d/scale"), accept).await;
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(code, 200, "{table}");
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((&table["kind"], names), (&json!("Table"), vec!["Name", "Desired", "Available", "Age"]));
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("d"), &json!(3), &json!(0)), "{table}");
    server.create_account().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    let (_, _, bytes) = server.get("/api/v1/namespaces/default/pods/p/ephemeralcontainers", accept).await;
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("p")));
}
