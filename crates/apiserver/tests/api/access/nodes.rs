//! What a kubelet may.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_kubelet_reaches_its_own_node_and_what_its_pods_name() {
    let server = Server::start().await;
    let node = |name: &str| User::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
    let (n, m) = (node("n"), node("m"));
    let admin = User::new("admin", &["system:masters"]);
    for name in ["default", "robot"] {
        server
            .create(
                "/api/v1/namespaces/default/serviceaccounts",
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
            )
            .await;
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["mounted", "other"] {
        server.create(secrets, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})).await;
    }
    let new = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "secret": {"secretName": "mounted"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}, {"serviceAccountToken": {"path": "u"}}]}}]}});
    let token = |pod: Option<&str>| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"boundObjectRef": pod.map(|name| json!({"kind": "Pod", "apiVersion": "v1", "name": name}))}})
    };
    let for_audiences = |audiences: &[&str]| {
        let mut token = token(Some("p"));
        token["spec"]["audiences"] = json!(audiences);
        token
    };
    let tokens = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    // On a node, of a node.
    let mirror = |on: &str, of: &str, volumes: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("mirror-{on}{of}"), "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": of, "uid": "x", "controller": true}]},
        "spec": {"nodeName": on, "containers": [{"name": "c", "image": "i"}], "volumes": volumes}})
    };
    let secret = json!([{"name": "v", "secret": {"secretName": "other"}}]);
    let unmarked = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": null}}});
    let running = json!({"status": {"phase": "Running"}});
    let steps: Vec<(&User, &str, String, Value, u16)> = vec![
        (&n, "POST", "/api/v1/nodes".into(), new("n", json!({"kubernetes.io/hostname": "n", "rack": "1"})), 201),
        (&m, "POST", "/api/v1/nodes".into(), new("m", json!({"node-role.kubernetes.io/control-plane": "true"})), 403),
        (&m, "POST", "/api/v1/nodes".into(), new("other", json!({})), 403),
        (&m, "POST", "/api/v1/nodes".into(), new("m", json!({})), 201),
        (&n, "PATCH", "/api/v1/nodes/m".into(), json!({"metadata": {"labels": {"x": "y"}}}), 403),
        (&n, "PATCH", "/api/v1/nodes/n".into(), json!({"metadata": {"labels": {"x": "y"}}}), 200),
        (
            &n,
            "PATCH",
            "/api/v1/nodes/n".into(),
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/tenant": "y"}}}),
            403,
        ),
        (&n, "PATCH", "/api/v1/nodes/n".into(), json!({"spec": {"taints": null}}), 403),
        (&n, "POST", pods.into(), pod.clone(), 403),
        (&n, "POST", pods.into(), mirror("n", "n", json!([])), 201),
        (&n, "POST", pods.into(), mirror("n", "m", json!([])), 403),
        (&m, "POST", pods.into(), mirror("n", "m", json!([])), 403),
        (&n, "POST", pods.into(), mirror("", "n", json!([])), 422),
        (&n, "POST", pods.into(), mirror("n", "n", secret), 422),
        (&admin, "POST", pods.into(), mirror("n", "", json!([])), 422),
        (&admin, "PATCH", format!("{pods}/mirror-nn"), unmarked, 422),
        (&n, "GET", format!("{secrets}/mounted"), json!({}), 403),
        (&admin, "POST", pods.into(), pod, 201),
        (&n, "GET", format!("{secrets}/mounted"), json!({}), 200),
        (&m, "GET", format!("{secrets}/mounted"), json!({}), 403),
        (&n, "GET", format!("{secrets}/other"), json!({}), 403),
        (&n, "GET", secrets.into(), json!({}), 403),
        (&n, "POST", tokens.into(), token(Some("p")), 201),
        (&n, "POST", tokens.into(), for_audiences(&["vault"]), 201),
        (&n, "POST", tokens.into(), for_audiences(&["other"]), 403),
        (&n, "POST", tokens.into(), for_audiences(&["vault", "other"]), 403),
        (&n, "POST", tokens.into(), token(None), 403),
        (&m, "POST", tokens.into(), token(Some("p")), 403),
        (&m, "PATCH", format!("{pods}/p/status"), running.clone(), 403),
        (&n, "PATCH", format!("{pods}/p/status"), running, 200),
        (&m, "DELETE", format!("{pods}/p"), json!({}), 403),
        (&n, "POST", leases.into(), lease("n"), 201),
        (&n, "POST", leases.into(), lease("m"), 403),
        (&n, "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles".into(), json!({}), 403),
        (&n, "DELETE", "/api/v1/nodes/n".into(), json!({}), 403),
    ]
    .into_iter()
    .collect();
    for (user, method, path, body, code) in steps {
        let (got, answer) = server.json_as(user, method, &path, &body).await;
        assert_eq!(got, code, "{} {method} {path} {body}: {answer}", user.name);
    }
}
