//! Custom kinds that are called like built-in ones: nothing that is particular to the built-in kind is theirs, neither
//! its behaviour nor what its subresources reach.

use std::collections::BTreeSet;

use apiserver::User;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const GROUP: &str = "example.com";
const OBJECTS: &str = "/apis/example.com/v1/namespaces/default";

/// Every built-in kind's plural, and whether its namesake is in namespaces: as the kind is, and nodes also as they aren't.
fn namesakes() -> impl Iterator<Item = (&'static str, bool)> {
    let like_built_in = api::KINDS.iter().map(|kind| (kind.plural(), kind.namespaced));
    like_built_in.chain([(api::kinds::NODES.plural(), true)])
}

/// Every subresource that any kind declares, and what no kind does.
fn all_subresources() -> BTreeSet<&'static str> {
    let declared = api::KINDS.iter().flat_map(|kind| kind.subresources().iter().map(|sub| sub.name()));
    declared.chain(["proxy/metrics", "anything"]).collect()
}

fn kind_of(plural: &str) -> String {
    format!("My{}", plural.trim_end_matches('s'))
}

fn definition(plural: &str, namespaced: bool, subresources: Value) -> Value {
    let kind = kind_of(plural);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {"group": GROUP, "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// Somebody who may do everything with the group of the namesakes, and nothing else.
async fn owner(server: &Server) -> User {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"verbs": ["*"], "apiGroups": [GROUP], "resources": ["*"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "own"}, "rules": rules});
    server.create(&format!("{rbac}/clusterroles"), role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "own"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "own"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "olga"}]});
    server.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    User::new("olga", &["system:authenticated"])
}

fn collection(plural: &str, namespaced: bool) -> String {
    if namespaced { format!("{OBJECTS}/{plural}") } else { format!("/apis/{GROUP}/v1/{plural}") }
}

/// The built-in objects that a leak would reach.
async fn built_in(server: &Server) {
    server.create_account().await;
    let ready = json!([{"type": "InternalIP", "address": "192.0.2.7"}]);
    server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}})).await;
    server.json("PATCH", "/api/v1/nodes/x/status", &json!({"status": {"addresses": ready}})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"nodeName": "x", "containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
        "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}});
    server.create("/api/v1/namespaces/default/services", service).await;
}

#[tokio::test]
async fn a_namesake_has_status_and_scale_alone_and_only_if_it_says_so() {
    let server = Server::start().await;
    built_in(&server).await;
    let olga = owner(&server).await;
    let both = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}});
    for (subresources, served) in [(json!({}), &[][..]), (both, &["status", "scale"])] {
        for (plural, namespaced) in namesakes() {
            let path = collection(plural, namespaced);
            let definition = definition(plural, namespaced, subresources.clone());
            server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
            let object = json!({"apiVersion": "example.com/v1", "kind": kind_of(plural), "metadata": {"name": "x"}, "spec": {"replicas": 1}});
            let (code, made) = server.json_as(&olga, "POST", &path, &object).await;
            assert_eq!(code, 201, "{made}");
            for sub in all_subresources() {
                for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                    let whole = format!("{path}/x/{sub}");
                    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
                    let mut request = Request::builder().method(method).uri(&whole).header("content-type", kind);
                    if method == "GET" {
                        request = request.header("upgrade", "websocket").header("connection", "upgrade");
                    }
                    let body = if method == "GET" { Bytes::new() } else { Bytes::from(made.to_string()) };
                    let (code, _, answer) = read(server.send_as(&olga, request.body(body).unwrap()).await).await;
                    let code = code.as_u16();
                    let text = String::from_utf8_lossy(&answer);
                    // As upstream, whose paths too take this for a namespace with a kind `scale` in it.
                    let hidden = plural == "namespaces" && sub == "scale";
                    let right = match (served.contains(&sub) && !hidden, method) {
                        (true, "GET" | "PUT" | "PATCH") => !matches!(code, 404 | 405 | 500..),
                        (true, _) => code == 405,
                        (false, _) => code == 404,
                    };
                    assert!(right, "{method} {whole}: {code} {text}");
                    let route = text.contains("could not find the requested resource");
                    assert!(code != 404 || route, "{method} {whole} must not be looked for at all: {text}");
                }
            }
            let listed = server.read("/apis/example.com/v1").await;
            let names: Vec<&str> =
                listed["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
            let mut want = vec![plural.to_string()];
            want.extend(served.iter().map(|sub| format!("{plural}/{sub}")));
            assert_eq!(names, want);
            let own = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}");
            server.json_as(&olga, "DELETE", &format!("{path}/x"), &json!({})).await;
            let gone = json!({"metadata": {"finalizers": null}});
            server.json("DELETE", &own, &json!({})).await;
            server.json("PATCH", &own, &gone).await;
        }
    }
}

#[tokio::test]
async fn a_namesake_behaves_as_a_plain_object() {
    let server = Server::start().await;
    built_in(&server).await;
    let olga = owner(&server).await;
    // What counts and bounds built-in kinds.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "0", "services": "0", "secrets": "0", "persistentvolumeclaims": "0", "count/pods": "0", "count/events.example.com": "1"}}});
    server.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1m"}}, {"type": "PersistentVolumeClaim", "max": {"storage": "1"}}]}});
    server.create("/api/v1/namespaces/default/limitranges", range).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    server.json("PATCH", "/api/v1/namespaces/default", &label).await;
    for (plural, namespaced) in namesakes() {
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        server.create(definitions, definition(plural, namespaced, json!({}))).await;
        let path = collection(plural, namespaced);
        // Everything that a built-in kind would default, fold, refuse, allocate or hold back.
        let sent = json!({"apiVersion": "example.com/v1", "kind": kind_of(plural),
            "metadata": {"name": "default", "annotations": {"a": "b"}},
            "stringData": {"k": "v"}, "data": {"a": 1}, "status": {"phase": "Odd", "certificate": "eA=="},
            "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "template": {"spec": {"hostPID": true}},
            "spec": {"nodeName": "x", "hostNetwork": true, "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"],
                "externalIPs": ["127.0.0.1"], "type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}],
                "signerName": "kubernetes.io/kube-apiserver-client", "request": "eA==", "finalizers": ["kubernetes"],
                "schedulingGates": [{"name": "g"}], "terminationGracePeriodSeconds": 30,
                "resources": {"requests": {"storage": "1Ti"}}, "group": "", "names": {},
                "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "9"}}, "securityContext": {"privileged": true}}]}});
        let (code, made) = server.json_as(&olga, "POST", &path, &sent).await;
        assert_eq!(code, 201, "{plural}: {made}");
        let mut plain = made.clone();
        for field in ["uid", "creationTimestamp", "generation", "managedFields", "resourceVersion", "namespace"] {
            plain["metadata"].as_object_mut().unwrap().remove(field);
        }
        assert_eq!(plain, sent, "{plural}");
        let change = json!({"stringData": {"l": "w"}, "spec": {"ephemeralContainers": [{"name": "d"}], "finalizers": null,
            "resources": {"requests": {"storage": "2Ti"}}}, "status": {"phase": "Even"}});
        let (code, changed) = server.json_as(&olga, "PATCH", &format!("{path}/default"), &change).await;
        assert_eq!(
            (code, &changed["stringData"]["l"], &changed["status"]["phase"]),
            (200, &json!("w"), &json!("Even")),
            "{plural}: {changed}"
        );
        assert_eq!(changed["spec"]["ephemeralContainers"][0]["name"], "d", "{plural}");
        assert!(changed["spec"].get("finalizers").is_none(), "{plural}: {changed}");
        // At once, without grace, without orphans, and not held by being the namespace `default`.
        let (code, gone) = server.json_as(&olga, "DELETE", &format!("{path}/default"), &json!({})).await;
        assert_eq!((code, &gone["status"]), (200, &json!("Success")), "{plural}: {gone}");
        assert_eq!(server.json_as(&olga, "GET", &format!("{path}/default"), &json!({})).await.0, 404, "{plural}");
        // The rights are those of its own group.
        let kind = api::KINDS.iter().find(|kind| kind.plural() == plural).unwrap();
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let scope = if kind.namespaced { "/namespaces/default" } else { "" };
        let built_in = format!("{root}/{}{scope}/{plural}", kind.api_version());
        assert_eq!(server.json_as(&olga, "GET", &built_in, &json!({})).await.0, 403, "{built_in}");
        // Defined twice, with another scope.
        if kind == api::kinds::NODES {
            let own = format!("{definitions}/{plural}.{GROUP}");
            server.json("DELETE", &own, &json!({})).await;
            server.json("PATCH", &own, &json!({"metadata": {"finalizers": null}})).await;
        }
    }
    // The address of the service is still its own.
    let thief = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief", "namespace": "kube-public"},
        "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}});
    let (code, answer) = server.json("POST", "/api/v1/namespaces/kube-public/services", &thief).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("already allocated"), "{answer}");
    // A quota by the name of the resource counts it, as it counts every kind.
    let event =
        |name: &str| json!({"apiVersion": "example.com/v1", "kind": kind_of("events"), "metadata": {"name": name}});
    assert_eq!(server.json_as(&olga, "POST", &format!("{OBJECTS}/events"), &event("a")).await.0, 201);
    let (code, answer) = server.json_as(&olga, "POST", &format!("{OBJECTS}/events"), &event("b")).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("exceeded quota"), "{answer}");
}

#[tokio::test]
async fn a_path_that_no_kind_has_is_not_found() {
    let server = Server::start().await;
    built_in(&server).await;
    for (method, path, want) in [
        ("GET", "/api/v1/namespaces/default/pods/x/log/more", 404),
        ("GET", "/api/v1/namespaces/default/pods/x/status/more", 404),
        ("GET", "/api/v1/namespaces/default/pods/x/nothing", 404),
        ("GET", "/api/v1/namespaces/default/services/x/log", 404),
        ("GET", "/api/v1/namespaces/default/nodes/x/proxy/metrics", 404),
        ("GET", "/api/v1/pods/x", 404),
        ("GET", "/api/v1/pods/x/exec", 404),
        ("DELETE", "/api/v1/namespaces/default/pods/x/status", 405),
        ("DELETE", "/api/v1/namespaces/default/pods/x/log", 405),
        ("POST", "/api/v1/namespaces/default/pods/x/status", 405),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/x", 404),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/x/y", 404),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        ("GET", "/api/v1/namespaces/default/pods/x/resize?watch=true", 200),
    ] {
        let (code, answer) = server.json(method, path, &json!({})).await;
        assert_eq!(code, want, "{method} {path}: {answer}");
    }
}

fn mypod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": kind_of("pods"), "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_scale_is_set_within_objects_alone() {
    let server = Server::start().await;
    let scale = json!({"scale": {"specReplicasPath": ".spec.deep.replicas", "statusReplicasPath": ".status.replicas"}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    // Objects of before there was a scale may have anything in its place.
    server.create(definitions, definition("pods", true, json!({}))).await;
    for (name, spec) in [("c", json!("text")), ("d", json!({"deep": [1]})), ("e", json!({"deep": 7}))] {
        server.create(&format!("{OBJECTS}/pods"), mypod(name, &spec)).await;
    }
    let with_scale = json!([{"op": "add", "path": "/spec/versions/0/subresources", "value": scale}]);
    let (code, answer) = server.patch(&format!("{definitions}/pods.example.com"), "json-patch+json", &with_scale).await;
    assert_eq!(code, 200, "{answer}");
    for (name, spec, code) in [
        ("a", json!({}), 200),
        ("b", json!({"deep": {"replicas": 7}}), 200),
        ("c", json!("text"), 400),
        ("d", json!({"deep": [1]}), 400),
        ("e", json!({"deep": 7}), 400),
    ] {
        let (made, answer) = server.json("POST", &format!("{OBJECTS}/pods"), &mypod(name, &spec)).await;
        assert!(made == 201 || code == 400, "what isn't there comes only as the scale wants it: {answer}");
        for (method, body) in [
            (
                "PUT",
                json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, "spec": {"replicas": 3}}),
            ),
            ("PATCH", json!({"spec": {"replicas": 4}})),
        ] {
            let (got, answer) = server.json(method, &format!("{OBJECTS}/pods/{name}/scale"), &body).await;
            assert_eq!(got.as_u16(), code, "{method} {name}: {answer}");
        }
    }
}
