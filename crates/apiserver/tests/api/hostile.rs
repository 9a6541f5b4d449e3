//! Attacks, each in a line: what somebody tries, and that it is refused. Who: a tenant with `edit` in a namespace of
//! the restricted standard, the token of a pod of his, a node's certificate, somebody with the token for joining, and nobody.

use apiserver::User;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const T1: &str = "/api/v1/namespaces/t1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CSR: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What keeps to the restricted standard.
fn secure(name: &str) -> Value {
    json!({"name": name, "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

fn pod(name: &str, change: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [secure("c")]}});
    for (key, value) in change.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn signing(name: &str, signer: &str, user: &str, group: &str, usage: &str) -> Value {
    let pem = pki::request(&pki::new_key().unwrap(), user, group, &[]).unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["digital signature", usage], "request": STANDARD.encode(pem)}})
}

fn role(name: &str, kind: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, subject: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": subject}]})
}

fn user(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

/// A cluster with a tenant of t1, another's namespace t2, and two nodes with a pod each.
async fn cluster() -> Server {
    let server = Server::start().await;
    for name in ["t1", "t2"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        server.create("/api/v1/namespaces", namespace).await;
        for account in ["default", "robot"] {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
            server.create(&format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await;
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}});
        server.create(&format!("/api/v1/namespaces/{name}/secrets"), secret).await;
    }
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        server.create("/api/v1/nodes", node).await;
    }
    server.create(&format!("{T1}/pods"), pod("p", json!({"nodeName": "n1"}))).await;
    server
        .create("/api/v1/namespaces/t2/pods", pod("q", json!({"nodeName": "n2", "serviceAccountName": "robot"})))
        .await;
    server.create(&format!("{T1}/services"), service("web", json!({"ports": [{"port": 80}]}))).await;
    server
        .create(&format!("{RBAC}/namespaces/t1/rolebindings"), binding("edit", "RoleBinding", "edit", "tenant"))
        .await;
    server
}

/// Tries each, and demands its answer's code and words.
async fn refuse(server: &Server, who: &User, attacks: Vec<(&str, String, Value, u16, &str)>) {
    let mut failed = Vec::new();
    for (method, path, body, code, words) in attacks {
        let (got, answer) = server.json_as(who, method, &path, &body).await;
        let message = answer["message"].as_str().unwrap_or("");
        if got != code || !message.contains(words) {
            failed.push(format!("{method} {path} {body}: {got} {answer}"));
        }
    }
    assert!(failed.is_empty(), "{} as {}:\n{}", failed.len(), who.name, failed.join("\n"));
}

#[tokio::test]
async fn a_tenant_gets_no_more_of_a_node_than_his_namespace_enforces() {
    let server = cluster().await;
    let tenant = user("tenant");
    let path = format!("{T1}/pods");
    let mut attacks = Vec::new();
    for (i, change) in [
        json!({"hostNetwork": true}),
        json!({"hostPID": true}),
        json!({"hostIPC": true}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        json!({"volumes": [{"name": "v", "nfs": {"server": "192.0.2.1", "path": "/"}}]}),
        json!({"securityContext": {}}),
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Unconfined"}}}),
        json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}}),
        json!({"containers": [{"name": "c", "image": "i"}]}),
        json!({"initContainers": [{"name": "i", "image": "i", "securityContext": {"privileged": true}}]}),
        json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 1}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"httpGet": {"port": 80, "host": "169.254.169.254"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "appArmorProfile": {"type": "Unconfined"}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seLinuxOptions": {"type": "spc_t"}}}]}),
    ]
    .into_iter()
    .enumerate()
    {
        attacks.push(("POST", path.clone(), pod(&format!("x{i}"), change), 403, "violates PodSecurity \"restricted:latest\""));
    }
    attacks.push((
        "PATCH",
        format!("{T1}/pods/p/status"),
        json!({"status": {"podIP": "127.0.0.1"}}),
        403,
        "cannot patch",
    ));
    attacks.push(("PATCH", format!("{T1}/pods/p/ephemeralcontainers"), json!({}), 403, "cannot patch resource"));
    attacks.push(("PATCH", format!("{T1}/pods/p/resize"), json!({}), 403, "cannot patch resource"));
    attacks.push(("POST", format!("{T1}/pods/p/binding"), json!({"target": {"name": "n2"}}), 403, "cannot create"));
    attacks.push((
        "PATCH",
        T1.into(),
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}}),
        403,
        "cannot patch",
    ));
    refuse(&server, &tenant, attacks).await;

    // Somebody who may debug pods there is bound by the standard as much: in containers that are added, and in images
    // that are changed while a pod runs that was there before its namespace became strict.
    let rule = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods/ephemeralcontainers", "pods/resize"]}]);
    server.create(&format!("{RBAC}/clusterroles"), role("debug", "ClusterRole", rule)).await;
    server
        .create(&format!("{RBAC}/namespaces/t1/rolebindings"), binding("debug", "RoleBinding", "debug", "tenant"))
        .await;
    let debug = |securitycontext: Value| json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i", "securityContext": securitycontext}]}});
    let ephemeral = format!("{T1}/pods/p/ephemeralcontainers");
    let bad = "violates PodSecurity \"restricted:latest\"";
    refuse(
        &server,
        &tenant,
        vec![
            ("PATCH", ephemeral.clone(), debug(json!({"privileged": true})), 403, bad),
            ("PATCH", ephemeral.clone(), debug(json!({"capabilities": {"add": ["SYS_ADMIN"]}})), 403, bad),
            ("PATCH", ephemeral.clone(), debug(json!({"allowPrivilegeEscalation": false})), 403, bad),
            ("PATCH", ephemeral.clone(), debug(secure("d")["securityContext"].clone()), 200, ""),
        ],
    )
    .await;
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
async fn a_tenant_stays_in_his_namespace() {
    let server = cluster().await;
    let tenant = user("tenant");
    let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/t1/endpointslices".to_string();
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [{"addresses": [{"ip": "192.0.2.9"}]}]});
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "h"}, "webhooks": []});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b.c"}, "spec": {}});
    let mut attacks: Vec<(&str, String, Value, u16, &str)> = vec![
        ("GET", "/api/v1/namespaces/t1".into(), json!({}), 200, ""),
        ("GET", "/api/v1/namespaces/t2".into(), json!({}), 403, "in the namespace \"t2\""),
        ("DELETE", T1.into(), json!({}), 403, "cannot delete"),
        ("PUT", format!("{T1}/finalize"), json!({}), 403, "cannot update"),
        ("POST", slices.clone(), slice("192.0.2.9"), 403, "cannot create"),
        ("POST", format!("{T1}/endpoints"), endpoints.clone(), 403, "cannot create"),
        ("PUT", format!("{T1}/endpoints/web"), endpoints, 403, "cannot update"),
        ("POST", format!("{RBAC}/namespaces/t1/roles"), role("x", "Role", everything.clone()), 403, "cannot create"),
        (
            "POST",
            format!("{RBAC}/namespaces/t1/rolebindings"),
            binding("x", "RoleBinding", "cluster-admin", "tenant"),
            403,
            "cannot create",
        ),
        ("POST", format!("{RBAC}/clusterroles"), role("x", "ClusterRole", everything), 403, "cannot create"),
        (
            "POST",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".into(),
            hook,
            403,
            "cannot create",
        ),
        ("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".into(), definition, 403, "cannot create"),
        ("POST", "/api/v1/namespaces/t2/serviceaccounts/robot/token".into(), json!({}), 403, "cannot create"),
        (
            "POST",
            CSR.into(),
            signing("c", "kubernetes.io/kube-apiserver-client", "root", "system:masters", "client auth"),
            403,
            "",
        ),
        ("GET", "/api/v1/nodes/n1/proxy/pods".into(), json!({}), 403, "cannot get resource \"nodes/proxy\""),
        (
            "PATCH",
            format!("{T1}/services/web/status"),
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
            403,
            "cannot patch",
        ),
        ("GET", "/metrics".into(), json!({}), 403, "cannot get path"),
    ];
    for plural in ["secrets", "pods", "configmaps", "serviceaccounts"] {
        for (method, path) in [
            ("GET", format!("/api/v1/{plural}")),
            ("GET", format!("/api/v1/{plural}?fieldSelector=metadata.namespace%3Dt1")),
            ("GET", format!("/api/v1/namespaces/t2/{plural}")),
            ("GET", format!("/api/v1/namespaces/t2/{plural}/s")),
            ("GET", format!("/api/v1/namespaces/t1%2F..%2Ft2/{plural}")),
            ("DELETE", format!("/api/v1/namespaces/t2/{plural}")),
            ("POST", format!("/api/v1/namespaces/t2/{plural}")),
        ] {
            attacks.push((method, path, json!({}), 403, "forbidden"));
        }
    }
    refuse(&server, &tenant, attacks).await;
    // What a tenant may write leads nowhere that it shouldn't.
    let name = json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 7777}]});
    assert_eq!(server.json_as(&tenant, "POST", &format!("{T1}/services"), &service("ssrf", name)).await.0, 201);
    let external = |address: &str| service("ext", json!({"ports": [{"port": 80}], "externalIPs": [address]}));
    let ports = json!([{"port": 80}]);
    refuse(
        &server,
        &tenant,
        vec![
            ("GET", format!("{T1}/services/ssrf:7777/proxy/"), json!({}), 503, "no endpoints available"),
            ("GET", format!("{T1}/services/https:ssrf:7777/proxy/x"), json!({}), 503, "no endpoints available"),
            (
                "POST",
                format!("{T1}/services"),
                external("192.0.2.1"),
                403,
                "Use of external IPs is denied by admission control",
            ),
            ("POST", format!("{T1}/services"), external("169.254.169.254"), 422, "link-local"),
            ("POST", format!("{T1}/services"), external("127.0.0.1"), 422, "loopback"),
            ("POST", format!("{T1}/services"), external("::ffff:127.0.0.1"), 422, ""),
            ("POST", format!("{T1}/services"), external("10.96.0.1"), 403, "an address of services or pods"),
            ("POST", format!("{T1}/services"), external("10.42.0.9"), 403, "an address of services or pods"),
            (
                "POST",
                format!("{T1}/services"),
                service("dns", json!({"clusterIP": "10.96.0.10", "ports": ports})),
                422,
                "already allocated",
            ),
            (
                "PATCH",
                format!("{T1}/services/web"),
                json!({"spec": {"externalIPs": ["192.0.2.1"]}}),
                403,
                "Use of external IPs is denied",
            ),
        ],
    )
    .await;
    // Nobody writes addresses that everybody reads as his own, though he may write endpoints.
    for address in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"] {
        let (code, answer) = server.json("POST", &slices, &slice(address)).await;
        assert!(
            code == 422 && answer["details"]["causes"][0]["field"] == "endpoints[0].addresses[0]",
            "{address}: {answer}"
        );
    }
    // A pod that claims to be somewhere else is not asked there.
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    server.json("PATCH", &format!("{T1}/pods/p/status"), &status).await;
    refuse(
        &server,
        &tenant,
        vec![
            ("GET", format!("{T1}/pods/p:80/proxy/"), json!({}), 400, "address not allowed"),
            ("GET", format!("{T1}/pods/p:80/proxy/"), json!({}), 400, "address not allowed"),
        ],
    )
    .await;
}

#[tokio::test]
async fn external_addresses_are_those_that_the_administrator_names() {
    let server = Server::start_with(|config| config.external_ips = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let path = "/api/v1/namespaces/default/services";
    let with =
        |name: &str, addresses: &[&str]| service(name, json!({"ports": [{"port": 80}], "externalIPs": addresses}));
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
async fn rights_to_one_name_and_to_one_verb_stay_that() {
    let server = cluster().await;
    let rules = json!([
        {"verbs": ["create", "get", "list", "watch", "deletecollection"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["foo"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy", "pods/log"]},
    ]);
    server.create(&format!("{RBAC}/clusterroles"), role("named", "ClusterRole", rules)).await;
    server.create(&format!("{RBAC}/clusterrolebindings"), binding("named", "ClusterRoleBinding", "named", "eve")).await;
    let eve = user("eve");
    let bar = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bar"}});
    let named = "fieldSelector=metadata.name%3Dfoo";
    refuse(
        &server,
        &eve,
        vec![
            ("POST", format!("{T1}/secrets?{named}"), bar.clone(), 403, "cannot create"),
            ("POST", format!("{T1}/secrets"), bar, 403, "cannot create"),
            ("DELETE", format!("{T1}/secrets?{named}"), json!({}), 403, "cannot deletecollection"),
            ("GET", format!("{T1}/secrets"), json!({}), 403, "cannot list"),
            ("GET", format!("{T1}/secrets?fieldSelector=metadata.name%3Ds"), json!({}), 403, "cannot list"),
            ("GET", format!("{T1}/secrets?fieldSelector=metadata.name!%3Dfoo"), json!({}), 403, "cannot list"),
            ("GET", format!("{T1}/secrets/s?{named}"), json!({}), 403, "cannot get"),
            ("GET", format!("{T1}/secrets?{named}"), json!({}), 200, ""),
            ("GET", format!("{T1}/pods/p/exec?command=id"), json!({}), 403, "cannot create resource \"pods/exec\""),
            ("GET", format!("{T1}/pods/p/attach"), json!({}), 403, "cannot create resource \"pods/attach\""),
            ("GET", format!("{T1}/pods/p/portforward"), json!({}), 403, "cannot create resource \"pods/portforward\""),
            ("POST", format!("{T1}/pods/p/exec?command=id"), json!({}), 403, "cannot create resource \"pods/exec\""),
            ("DELETE", format!("{T1}/pods/p/proxy/x"), json!({}), 403, "cannot delete resource \"pods/proxy\""),
        ],
    )
    .await;
    for (path, resource) in [
        ("/api/v1/nodes/n1/proxy/exec/t1/p/c?command=id".to_string(), "nodes/proxy"),
        (format!("{T1}/pods/p/proxy/"), "pods/proxy"),
        (format!("{T1}/services/web/proxy/"), "services/proxy"),
    ] {
        let ask = |upgrade: bool| {
            let request = Request::get(&path);
            let request =
                if upgrade { request.header("upgrade", "websocket").header("connection", "Upgrade") } else { request };
            request.body(Bytes::new()).unwrap()
        };
        let (code, _, body) = read(server.send_as(&eve, ask(true)).await).await;
        let text = String::from_utf8_lossy(&body);
        assert!(code == 403 && text.contains(&format!("cannot create resource \\\"{resource}\\\"")), "{path}: {text}");
        let (code, _, body) = read(server.send_as(&eve, ask(false)).await).await;
        assert_ne!(code, 403, "{path}: {}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test]
async fn whoever_is_to_be_less_is_never_more() {
    let server = Server::start().await;
    let root: (&str, &[&str]) = ("root", &["system:masters"]);
    let secrets = |headers: &[(&str, &[u8])]| {
        let mut request = Request::get("/api/v1/secrets");
        for (name, value) in headers {
            request = request.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        server.remote(Some(root), request.body(Bytes::new()).unwrap())
    };
    assert_eq!(secrets(&[]).await.0, 200);
    for (headers, code) in [
        (&[("impersonate-user", "jürgen".as_bytes())][..], 403),
        (&[("impersonate-user", b"j\xfcrgen")], 400),
        (&[("impersonate-user", b"")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-user", b"b")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-uid", b"1"), ("impersonate-uid", b"2")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-group", b"\xff")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-extra-x", b"\xff")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-extra-", b"x")], 400),
        (&[("impersonate-user", b"a"), ("impersonate-anything", b"x")], 400),
        (&[("impersonate-anything", b"x")], 400),
        (&[("impersonate-uid", b"1")], 500),
        (&[("impersonate-group", b"a")], 500),
        (&[("impersonate-extra-x", b"a")], 500),
        (&[("impersonate-user", b"a")], 403),
        (&[("impersonate-user", b"a"), ("impersonate-group", b"system:masters")], 200),
    ] {
        let (got, answer) = secrets(headers).await;
        assert_eq!(got, code, "{headers:?}: {answer}");
    }
    // Words of a proxy in front count for nothing.
    let mut request = Request::get("/api/v1/secrets");
    for name in ["x-remote-user", "x-remote-group", "x-forwarded-user"] {
        request = request.header(name, "system:masters");
    }
    assert_eq!(server.remote(None, request.body(Bytes::new()).unwrap()).await.0, 403);
}

#[tokio::test]
async fn nobody_gets_what_is_not_everybodys() {
    let server = cluster().await;
    for (method, path, code) in [
        ("GET", "/version", 200),
        ("GET", "/healthz", 200),
        ("GET", "/api", 403),
        ("GET", "/apis", 403),
        ("GET", "/openapi/v2", 403),
        ("GET", "/metrics", 403),
        ("GET", "/api/v1/namespaces", 403),
        ("GET", "/api/v1/namespaces/t1/secrets/s", 403),
        ("GET", "/api/v1/nodes/n1/proxy/", 403),
        ("GET", "/api/v1//nodes//n1//proxy/", 403),
        ("GET", "/healthz/../api/v1/secrets", 403),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 403),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", 403),
        ("OPTIONS", "/api/v1/namespaces/t1/pods/p/proxy/", 403),
        ("OPTIONS", "/api/v1/secrets", 405),
    ] {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let (got, answer) = server.remote(None, request.body(Bytes::from("{}")).unwrap()).await;
        assert_eq!(got, code, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_pods_token_is_its_own_and_for_its_time() {
    let server = cluster().await;
    let tenant = user("tenant");
    let token = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let of = |account: &str| format!("{T1}/serviceaccounts/{account}/token");
    let bound = |name: &str| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name}});
    refuse(
        &server,
        &tenant,
        vec![
            (
                "POST",
                of("robot"),
                token(bound("p")),
                400,
                "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.",
            ),
            ("POST", of("default"), token(bound("q")), 404, "not found"),
            ("POST", of("default"), token(json!({"expirationSeconds": 599})), 422, "10 minutes"),
            ("POST", of("default"), token(json!({"expirationSeconds": 4_294_967_297_i64})), 422, "2^32"),
            ("POST", of("default"), token(json!({"expirationSeconds": i64::MAX})), 422, "2^32"),
            ("POST", of("default"), token(json!({"expirationSeconds": -1})), 422, "10 minutes"),
            ("POST", of("default"), token(json!({"expirationSeconds": 4_294_967_296_i64})), 201, ""),
        ],
    )
    .await;
    let (_, answer) = server.json_as(&tenant, "POST", &of("default"), &token(bound("p"))).await;
    let bearer = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    for (method, path) in [
        ("GET", "/api/v1/namespaces/t1/secrets"),
        ("GET", "/api/v1/namespaces/t1/pods"),
        ("GET", "/api/v1/nodes"),
        ("POST", "/api/v1/namespaces/t1/pods"),
        ("POST", "/api/v1/namespaces/t1/serviceaccounts/default/token"),
        ("GET", "/api/v1/namespaces/kube-system/configmaps"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("GET", "/metrics"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", &bearer)
            .header("content-type", "application/json");
        let (code, answer) = server.remote(None, request.body(Bytes::from("{}")).unwrap()).await;
        assert_eq!(code, 403, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_node_reaches_no_other_and_decides_about_no_certificate() {
    let server = cluster().await;
    let node = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let request =
        signing("own", "kubernetes.io/kube-apiserver-client-kubelet", "system:node:n1", "system:nodes", "client auth");
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Me"}]}});
    let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    refuse(
        &server,
        &node,
        vec![
            ("GET", "/api/v1/namespaces/t2/secrets/s".into(), json!({}), 403, "cannot get"),
            ("GET", "/api/v1/namespaces/t1/secrets".into(), json!({}), 403, "cannot list"),
            ("GET", "/api/v1/secrets?fieldSelector=metadata.name%3Ds".into(), json!({}), 403, "cannot list"),
            ("PATCH", "/api/v1/nodes/n2".into(), json!({"metadata": {"labels": {"a": "b"}}}), 403, "cannot patch"),
            ("PATCH", "/api/v1/nodes/n2/status".into(), json!({"status": {}}), 403, "cannot patch"),
            ("DELETE", "/api/v1/nodes/n2".into(), json!({}), 403, "cannot delete"),
            ("GET", "/api/v1/nodes/n2/proxy/pods".into(), json!({}), 403, "nodes/proxy"),
            (
                "PATCH",
                "/api/v1/nodes/n1".into(),
                json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}}),
                403,
                "not allowed to set",
            ),
            (
                "PATCH",
                "/api/v1/nodes/n1/status".into(),
                json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b"}}}),
                403,
                "not allowed to set",
            ),
            ("DELETE", "/api/v1/namespaces/t2/pods/q".into(), json!({}), 403, "cannot delete"),
            (
                "PATCH",
                "/api/v1/namespaces/t2/pods/q/status".into(),
                json!({"status": {"phase": "Failed"}}),
                403,
                "cannot patch",
            ),
            ("GET", "/api/v1/namespaces/t1/pods/p/exec?command=id".into(), json!({}), 403, "pods/exec"),
            (
                "POST",
                "/api/v1/namespaces/t1/pods".into(),
                pod("evil", json!({"nodeName": "n1"})),
                403,
                "can only create mirror pods",
            ),
            (
                "POST",
                "/api/v1/namespaces/t2/serviceaccounts/robot/token".into(),
                json!({"spec": {}}),
                403,
                "cannot create",
            ),
            ("POST", format!("{RBAC}/clusterroles"), role("x", "ClusterRole", everything), 403, "cannot create"),
            ("POST", CSR.into(), request, 201, ""),
            ("PATCH", format!("{CSR}/own/approval"), approved.clone(), 403, "certificatesigningrequests/approval"),
            ("PATCH", format!("{CSR}/own/status"), approved, 403, "certificatesigningrequests/status"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_token_for_joining_asks_for_a_certificate_and_nothing_else() {
    let server = cluster().await;
    let joiner = User::new("system:bootstrap:timonel", &["system:bootstrappers", "system:authenticated"]);
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let approval = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Me"}]}});
    let mut spoofed = signing("spoofed", signer, "system:node:n9", "system:nodes", "client auth");
    spoofed["spec"]["username"] = "system:node:n9".into();
    spoofed["spec"]["groups"] = json!(["system:nodes", "system:masters"]);
    refuse(
        &server,
        &joiner,
        vec![
            ("POST", CSR.into(), signing("a", signer, "system:node:n9", "system:nodes", "client auth"), 201, ""),
            ("POST", CSR.into(), spoofed, 201, ""),
            ("PATCH", format!("{CSR}/a/approval"), approval, 403, "cannot patch"),
            ("DELETE", format!("{CSR}/a"), json!({}), 403, "cannot delete"),
            ("GET", "/api/v1/nodes".into(), json!({}), 403, "cannot list"),
            ("GET", "/api/v1/namespaces/kube-system/secrets".into(), json!({}), 403, "cannot list"),
            (
                "POST",
                "/api/v1/nodes".into(),
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n9"}}),
                403,
                "cannot create",
            ),
        ],
    )
    .await;
    let kept = server.read(&format!("{CSR}/spoofed")).await;
    assert_eq!(
        (&kept["spec"]["username"], &kept["spec"]["groups"][0]),
        (&json!("system:bootstrap:timonel"), &json!("system:bootstrappers"))
    );
}

#[tokio::test]
async fn who_may_sign_does_not_approve_and_who_approves_does_not_sign() {
    let server = Server::start().await;
    let rules = json!([
        {"verbs": ["*"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]},
        {"verbs": ["approve", "sign"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"]},
    ]);
    server.create(&format!("{RBAC}/clusterroles"), role("both", "ClusterRole", rules)).await;
    server.create(&format!("{RBAC}/clusterrolebindings"), binding("both", "ClusterRoleBinding", "both", "anna")).await;
    server.create(CSR, signing("a", "example.com/one", "someone", "dev", "client auth")).await;
    let anna = user("anna");
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Me", "message": ""});
    let with = |conditions: &[&str]| json!({"status": {"conditions": conditions.iter().map(|c| condition(c)).collect::<Vec<_>>()}});
    let certificate = STANDARD.encode("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    refuse(
        &server,
        &anna,
        vec![
            ("PATCH", format!("{CSR}/a/status"), with(&["Approved"]), 422, "may not add or remove a condition"),
            ("PATCH", format!("{CSR}/a/status"), with(&["Denied"]), 422, "may not add or remove a condition"),
            ("PATCH", format!("{CSR}/a/approval"), with(&["Approved", "Denied"]), 422, "mutually exclusive"),
            ("GET", format!("{CSR}/a/approval"), json!({}), 200, ""),
        ],
    )
    .await;
    let mut patch = with(&["Approved"]);
    patch["status"]["certificate"] = certificate.as_str().into();
    patch["spec"] = json!({"signerName": "example.com/two", "username": "root"});
    patch["metadata"] = json!({"annotations": {"patchedapproval": "true"}});
    let (code, approved) = server.json_as(&anna, "PATCH", &format!("{CSR}/a/approval"), &patch).await;
    assert_eq!(
        (code, &approved["status"]["certificate"], &approved["spec"]["signerName"]),
        (200, &Value::Null, &json!("example.com/one")),
        "{approved}"
    );
    assert_eq!(approved["metadata"]["annotations"]["patchedapproval"], "true");
    assert!(approved["status"]["conditions"][0]["lastTransitionTime"].is_string(), "{approved}");
    refuse(
        &server,
        &anna,
        vec![
            ("PATCH", format!("{CSR}/a/status"), with(&[]), 422, "may not add or remove a condition"),
            ("PATCH", format!("{CSR}/a/status"), json!({"status": {"certificate": certificate}}), 200, ""),
        ],
    )
    .await;
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
