//! What a tenant may do, and what he is told.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::{RBAC, T1, binding, cluster, refuse, role, secure, service, user};
use crate::server::Server;

#[tokio::test]
async fn a_tenant_gets_no_more_of_a_node_than_his_namespace_enforces() {
    let server = cluster().await;
    let tenant = user("tenant");
    let path = format!("{T1}/pods");
    // Somebody who may debug pods there does so within the standard, and changes no images to worse while a pod runs that was there before
    // its namespace became strict.
    let rule = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods/ephemeralcontainers", "pods/resize"]}]);
    server.create(&format!("{RBAC}/clusterroles"), role("debug", "ClusterRole", &rule)).await;
    server
        .create(&format!("{RBAC}/namespaces/t1/rolebindings"), binding("debug", "RoleBinding", "debug", "tenant"))
        .await;
    let debug = |securitycontext: Value| json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i", "securityContext": securitycontext}]}});
    let ephemeral = format!("{T1}/pods/p/ephemeralcontainers");
    let bad = "violates PodSecurity \"restricted:latest\"";
    let right = debug(secure("d")["securityContext"].clone());
    refuse(&server, &tenant, vec![("PATCH", ephemeral, right, 200, "")]).await;
    let open = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    assert_eq!(server.json("PATCH", T1, &open).await.0, 200);
    let old = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "old"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create(&path, old).await;
    let closed = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let request = Request::patch(T1).header("content-type", "application/merge-patch+json");
    let answer = server.send(request.body(Bytes::from(closed.to_string())).unwrap()).await;
    let warnings: Vec<&str> = answer.headers().get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    assert!(
        warnings.len() == 2 && warnings[0].contains("existing pods in namespace") && warnings[1].contains("old: "),
        "{warnings:?}"
    );
    refuse(
        &server,
        &tenant,
        vec![("PATCH", format!("{T1}/pods/old"), json!({"metadata": {"labels": {"a": "b"}}}), 200, "")],
    )
    .await;
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "other"}]);
    let (code, answer) = server.patch(&format!("{T1}/pods/old"), "json-patch+json", &image).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains(bad), "{answer}");
    // Templates are let in, and told of.
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    for (kind, plural) in [("Deployment", "deployments"), ("ReplicaSet", "replicasets"), ("DaemonSet", "daemonsets")] {
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "t"}, "spec": spec});
        let request =
            Request::post(format!("/apis/apps/v1/namespaces/t1/{plural}")).header("content-type", "application/json");
        let answer = server.send_as(&tenant, request.body(Bytes::from(object.to_string())).unwrap()).await;
        let warning = answer.headers()["warning"].to_str().unwrap();
        assert!(
            answer.status() == 201
                && warning.contains("would violate PodSecurity \\\"restricted:latest\\\": host namespaces"),
            "{warning}"
        );
    }
    for value in ["Restricted", "none", ""] {
        let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": value}}});
        let (code, answer) = server.json("PATCH", T1, &label).await;
        assert_eq!(
            (code.as_u16(), &answer["details"]["causes"][0]["field"]),
            (422, &json!("metadata.labels[pod-security.kubernetes.io/enforce]")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn nobody_writes_addresses_that_everybody_reads_as_his_own() {
    let server = cluster().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/t1/endpointslices";
    for address in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"] {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "e", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
        let (code, answer) = server.json("POST", slices, &slice).await;
        assert!(
            code == 422 && answer["details"]["causes"][0]["field"] == "endpoints[0].addresses[0]",
            "{address}: {answer}"
        );
    }
}

#[tokio::test]
async fn external_addresses_are_those_that_the_administrator_names() {
    let server = Server::start_with(|config| config.external_ips = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let path = "/api/v1/namespaces/default/services";
    let with = |name: &str, addresses: &[&str]| service(name, &json!({"externalIPs": addresses}));
    server.create(path, with("a", &["192.0.2.1"])).await;
    for (addresses, code) in
        [(vec!["198.51.100.1"], 403), (vec!["192.0.2.1", "198.51.100.1"], 403), (vec!["192.0.2.1", "192.0.2.2"], 200)]
    {
        let change = json!({"spec": {"externalIPs": addresses}});
        let (got, answer) = server.json("PATCH", &format!("{path}/a"), &change).await;
        assert_eq!(got.as_u16(), code, "{change}: {answer}");
    }
}

#[tokio::test]
async fn rights_to_one_name_and_to_one_verb_are_that() {
    let server = cluster().await;
    let rules = json!([
        {"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["foo"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/proxy", "services/proxy", "nodes/proxy"]},
    ]);
    server.create(&format!("{RBAC}/clusterroles"), role("named", "ClusterRole", &rules)).await;
    server.create(&format!("{RBAC}/clusterrolebindings"), binding("named", "ClusterRoleBinding", "named", "eve")).await;
    let eve = user("eve");
    let list = format!("{T1}/secrets?fieldSelector=metadata.name%3Dfoo");
    refuse(&server, &eve, vec![("GET", list, json!({}), 200, "")]).await;
    // What asks for no stream.
    for path in [
        "/api/v1/nodes/n1/proxy/exec/t1/p/c?command=id".to_string(),
        format!("{T1}/pods/p/proxy/"),
        format!("{T1}/services/web/proxy/"),
    ] {
        let (code, answer) = server.json_as(&eve, "GET", &path, &json!({})).await;
        assert_ne!(code, 403, "{path}: {answer}");
    }
}
