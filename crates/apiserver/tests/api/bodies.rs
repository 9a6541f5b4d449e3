//! What bodies may be, and what becomes of them: YAML 1.1, null, empty values, amounts, and how much of everything.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn send(server: &Server, method: &str, path: &str, kind: &str, body: String) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let (code, _, bytes) = read(server.send(request.body(Bytes::from(body)).unwrap()).await).await;
    (code.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn yaml_is_read_as_kubernetes_reads_it() {
    let server = Server::start().await;
    server.create_account().await;
    let text = "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: &l\n    app: p\n  annotations: {<<: *l, more: \"1\"}\n\
        spec:\n  containers:\n  - name: c\n    image: i\n    volumeMounts: [{name: v, mountPath: /v, readOnly: yes}]\n\
        \x20 volumes:\n  - {name: v, configMap: {name: none, optional: on, defaultMode: 0400}}\n---\n";
    let (code, pod) = send(&server, "POST", PODS, "application/yaml", text.into()).await;
    assert_eq!(code, 201, "{pod}");
    assert_eq!(pod["metadata"]["annotations"]["app"], "p");
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"], true);
    assert_eq!(pod["spec"]["volumes"][0]["configMap"], json!({"name": "none", "optional": true, "defaultMode": 256}));
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: x}\ndata: {b: x}\n";
    let path = format!("{MAPS}?fieldValidation=Strict");
    let (code, refused) = send(&server, "POST", &path, "application/yaml", twice.into()).await;
    let message = refused["message"].as_str().unwrap();
    assert!(code == 400 && message.contains("line 5: key \"data\" already set in map"), "{refused}");
    let path = format!("{MAPS}/m?fieldManager=x&fieldValidation=Strict");
    let (code, refused) = send(&server, "PATCH", &path, "application/apply-patch+yaml", twice.into()).await;
    assert_eq!(code, 400, "{refused}");
}

#[tokio::test]
async fn small_bodies_cannot_become_large_objects() {
    let server = Server::start().await;
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let bomb = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 30_000].join(","), vec!["*a"; 30_000].join(","));
    for (method, path, kind) in [
        ("POST", review, "application/yaml"),
        ("PATCH", "/api/v1/namespaces/default/configmaps/m?fieldManager=x", "application/apply-patch+yaml"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/m", "application/yaml"),
    ] {
        let (code, answer) = send(&server, method, path, kind, bomb.clone()).await;
        assert!(code == 400 && answer["message"].as_str().unwrap().contains("more than"), "{method}: {answer}");
    }
    let objects = format!("{{\"x\": [{}]}}", vec!["{\"\":0}"; 300_000].join(","));
    let (code, answer) = send(&server, "POST", review, "application/json", objects).await;
    assert_eq!(code, 400, "{answer}");

    server.create(MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(1000)}})).await;
    let one = format!("{MAPS}/m");
    let patch = |steps: Vec<Value>| {
        let (server, one) = (&server, &one);
        async move { server.patch(one, "json-patch+json", &json!(steps)).await }
    };
    let copies: Vec<Value> =
        (0..32).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/k{i}")})).collect();
    let (code, answer) = patch(copies).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("exceeding the limit"), "{answer}");
    let (code, answer) = patch(vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001]).await;
    assert_eq!((code.as_u16(), &answer["reason"]), (413, &json!("RequestEntityTooLarge")), "{answer}");
    // Each change is small enough, the object isn't any more.
    let note = |i: usize| json!({"metadata": {"annotations": {format!("n{i}"): "x".repeat(250_000)}}});
    let (code, _) = server.json("PATCH", &one, &note(0)).await;
    assert_eq!(code, 200);
    let fat = json!({"metadata": {"name": "fat"}, "spec": {"containers": [{"name": "c", "image": "i",
        "args": vec!["x".repeat(1000); 2000]}]}});
    server.create_account().await;
    let (code, answer) = server.json("POST", PODS, &fat).await;
    assert_eq!((code.as_u16(), &answer["reason"]), (413, &json!("RequestEntityTooLarge")), "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("larger than 1572864 bytes"), "{message}");
}

#[tokio::test]
async fn null_and_what_is_empty_are_what_they_are_in_go() {
    let server = Server::start().await;
    server.create_account().await;
    let map = json!({"metadata": {"name": "m", "creationTimestamp": null, "labels": null, "namespace": ""},
        "data": {"HOST": "example.com", "PROXY": null}, "binaryData": null});
    let map = server.create(MAPS, map).await;
    assert_eq!(map["data"], json!({"HOST": "example.com", "PROXY": ""}));
    let service = json!({"metadata": {"name": "s", "creationTimestamp": null},
        "spec": {"ports": [{"port": 80, "targetPort": 0, "protocol": "", "nodePort": 0, "name": ""}], "selector": {"a": "b"},
            "type": "", "sessionAffinity": "", "clusterIP": "", "externalIPs": null},
        "status": {"loadBalancer": {}}});
    let service = server.create("/api/v1/namespaces/default/services", service).await;
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}]));
    assert_eq!((&service["spec"]["type"], &service["spec"]["sessionAffinity"]), (&json!("ClusterIP"), &json!("None")));
    let named = json!({"metadata": {"name": "t"}, "spec": {"ports": [{"port": 81, "targetPort": ""}]}});
    let named = server.create("/api/v1/namespaces/default/services", named).await;
    assert_eq!(named["spec"]["ports"][0]["targetPort"], 81);
    let (code, refused) =
        server.json("POST", PODS, &json!({"metadata": {"name": "p"}, "spec": {"containers": [null]}})).await;
    assert_eq!((code.as_u16(), &refused["reason"]), (422, &json!("Invalid")), "{refused}");
    let (code, refused) = server
        .json(
            "POST",
            PODS,
            &json!({"metadata": {"name": "p"}, "spec": {"priority": 4_000_000_000_i64, "containers": []}}),
        )
        .await;
    let message = refused["message"].as_str().unwrap();
    assert!(code == 400 && message.contains("into Go struct field PodSpec.spec.priority of type int32"), "{message}");
}

#[tokio::test]
async fn the_same_amount_in_another_writing_is_no_change() {
    let server = Server::start().await;
    let deployment = |cpu: &str, memory: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {
                    "requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": 1, "memory": "1e9"}}}]}}}})
    };
    let list = "/apis/apps/v1/namespaces/default/deployments";
    let made = server.create(list, deployment("0.1", "1000M")).await;
    let resources = |d: &Value| d["spec"]["template"]["spec"]["containers"][0]["resources"].clone();
    let want = json!({"limits": {"cpu": "1", "memory": "1e9"}, "requests": {"cpu": "100m", "memory": "1G"}});
    assert_eq!(resources(&made), want);
    let (code, again) = server.json("PUT", &format!("{list}/d"), &deployment("100m", "1G")).await;
    assert_eq!((code.as_u16(), &again["metadata"]), (200, &made["metadata"]));
    // Nor is it a conflict for who applies it.
    let path = format!("{list}/d?fieldManager=other");
    let (code, applied) = server.patch(&path, "apply-patch+yaml", &deployment("100m", "1000M")).await;
    assert_eq!((code.as_u16(), &applied["metadata"]["generation"]), (200, &json!(1)), "{applied}");
}

#[tokio::test]
async fn bindings_and_security_contexts_are_checked_as_upstream_does() {
    let server = Server::start().await;
    let binding = |kind: &str| {
        json!({"kind": kind, "metadata": {"name": "b"}, "subjects": [{"kind": "ServiceAccount", "name": "default"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}})
    };
    let group = "/apis/rbac.authorization.k8s.io/v1";
    server.create(&format!("{group}/namespaces/default/rolebindings"), binding("RoleBinding")).await;
    let path = format!("{group}/clusterrolebindings");
    let (code, refused) = server.json("POST", &path, &binding("ClusterRoleBinding")).await;
    let field = &refused["details"]["causes"][0]["field"];
    assert_eq!((code.as_u16(), field), (422, &json!("subjects[0].namespace")), "{refused}");
    server.create_account().await;
    let pod = |capability: &str| {
        json!({"metadata": {"name": capability.to_lowercase().replace('_', "-")}, "spec": {"containers": [{"name": "c", "image": "i",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": [capability]}}}]}})
    };
    server.create(PODS, pod("SYS_ADMIN")).await;
    assert_eq!(server.json("POST", PODS, &pod("CAP_SYS_ADMIN")).await.0, 422);
}

#[tokio::test]
async fn a_scale_tells_the_whole_selector() {
    let server = Server::start().await;
    let template = json!({"metadata": {"labels": {"app": "d", "tier": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"app": "d"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "gone", "operator": "DoesNotExist"}]});
    let spec = json!({"selector": selector, "template": template, "serviceName": "s"});
    for plural in ["deployments", "replicasets", "statefulsets"] {
        let list = format!("/apis/apps/v1/namespaces/default/{plural}");
        let mut spec = spec.clone();
        if plural != "statefulsets" {
            spec.as_object_mut().unwrap().remove("serviceName");
        }
        server.create(&list, json!({"metadata": {"name": "d"}, "spec": spec})).await;
        let scale = server.read(&format!("{list}/d/scale")).await;
        assert_eq!(scale["status"]["selector"], "app=d,!gone,tier in (a,b)", "{plural}");
    }
    // What isn't a number is refused, and not zero.
    let scale = "/apis/apps/v1/namespaces/default/deployments/d/scale";
    for replicas in [json!("3"), json!(1.5), json!(4_000_000_000_i64)] {
        let sent = json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas}});
        assert_eq!(server.json("PUT", scale, &sent).await.0, 400, "{replicas}");
        assert_eq!(server.json("PATCH", scale, &sent).await.0, 400, "{replicas}");
    }
    let list = "/api/v1/namespaces/default/replicationcontrollers";
    server
        .create(
            list,
            json!({"metadata": {"name": "d"}, "spec": {"selector": {"tier": "a", "app": "d"}, "template": template}}),
        )
        .await;
    assert_eq!(server.read(&format!("{list}/d/scale")).await["status"]["selector"], "app=d,tier=a");
}
