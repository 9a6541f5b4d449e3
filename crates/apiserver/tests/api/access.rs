//! Who is let in, as whom, and to what.

mod credentials;
mod nodes;

use apiserver::User;
use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::Server;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn person(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

/// Gives a user rights: `verbs|groups|resources|names`.
async fn allow(server: &Server, user: &str, name: &str, rules: &[&str]) {
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let part = |i: usize| -> Vec<&str> {
                rule.split('|').nth(i).unwrap_or("").split(' ').filter(|p| !p.is_empty()).collect()
            };
            let groups = if part(1).is_empty() { vec![""] } else { part(1) };
            json!({"verbs": part(0), "apiGroups": groups, "resources": part(2), "resourceNames": part(3)})
        })
        .collect();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    server.create(&format!("{RBAC}/clusterroles"), role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
    server.create(&format!("{RBAC}/clusterrolebindings"), binding).await;
}

async fn account_token(server: &Server, spec: Value) -> (u16, Value) {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let (code, answer) = server.json("POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", &body).await;
    (code.as_u16(), answer)
}

/// Who a request is taken to come from.
async fn whoami(server: &Server, certificate: Option<(&str, &[&str])>, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::post(WHOAMI).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let (code, answer) = server.remote(certificate, request.body(Bytes::from(body)).unwrap()).await;
    (code, if code == 201 { answer["status"]["userInfo"].clone() } else { answer })
}

#[tokio::test]
async fn reviews_tell_who_may_do_what() {
    let server = Server::start().await;
    allow(&server, "anna", "reader", &["get list||pods", "get|apps|deployments|one"]).await;
    let authorization = "/apis/authorization.k8s.io/v1";
    for (attributes, allowed) in [
        (json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "x"}}), true),
        (json!({"resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "x"}}), false),
        (json!({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "log"}}), false),
        (
            json!({"resourceAttributes": {"verb": "get", "group": "apps", "resource": "deployments", "name": "one"}}),
            true,
        ),
        (json!({"resourceAttributes": {"verb": "get", "group": "apps", "resource": "deployments"}}), false),
        (json!({"nonResourceAttributes": {"verb": "get", "path": "/healthz"}}), true),
        (json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}), false),
    ] {
        let body =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": attributes});
        let (code, own) =
            server.json_as(&person("anna"), "POST", &format!("{authorization}/selfsubjectaccessreviews"), &body).await;
        assert_eq!((code, &own["status"]["allowed"]), (201, &json!(allowed)), "{own}");
        assert_eq!(
            own["status"]["reason"].as_str().unwrap_or("").starts_with("RBAC: allowed by ClusterRoleBinding"),
            allowed,
            "{own}"
        );
        let mut spec = attributes.clone();
        spec["user"] = "anna".into();
        spec["groups"] = json!(["system:authenticated"]);
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let (_, other) = server.json("POST", &format!("{authorization}/subjectaccessreviews"), &body).await;
        assert_eq!(other["status"], own["status"]);
    }
    for (kind, path, spec, field) in [
        ("SelfSubjectAccessReview", "selfsubjectaccessreviews", json!({}), "spec.resourceAttributes"),
        (
            "SubjectAccessReview",
            "subjectaccessreviews",
            json!({"nonResourceAttributes": {"path": "/", "verb": "get"}}),
            "spec.user",
        ),
        (
            "LocalSubjectAccessReview",
            "namespaces/default/localsubjectaccessreviews",
            json!({"user": "a", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "x"}}),
            "spec.resourceAttributes.namespace",
        ),
    ] {
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let (code, status) = server.json("POST", &format!("{authorization}/{path}"), &body).await;
        assert_eq!((code.as_u16(), &status["details"]["causes"][0]["field"]), (422, &json!(field)), "{status}");
    }
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let (_, rules) =
        server.json_as(&person("anna"), "POST", &format!("{authorization}/selfsubjectrulesreviews"), &body).await;
    let pods = rules["status"]["resourceRules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["resources"] == json!(["pods"]))
        .unwrap();
    assert_eq!(pods["verbs"], json!(["get", "list"]));
    assert_eq!(rules["status"]["incomplete"], false);
}

#[tokio::test]
async fn roles_are_found_through_bindings() {
    let server = Server::start().await;
    let binding = |name: &str, role: &str, subject: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": [subject]})
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let group = "rbac.authorization.k8s.io";
    server.create(&bindings, binding("a", "view", json!({"kind": "User", "apiGroup": group, "name": "anna"}))).await;
    server.create(&bindings, binding("b", "edit", json!({"kind": "Group", "apiGroup": group, "name": "dev"}))).await;
    server
        .create(
            &bindings,
            binding("c", "admin", json!({"kind": "ServiceAccount", "namespace": "other", "name": "robot"})),
        )
        .await;
    let dev = User::new("eve", &["dev", "system:authenticated"]);
    let robot = User::new("system:serviceaccount:other:robot", &["system:authenticated"]);
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "m-"}});
    for (user, method, path, body, code) in [
        (&person("anna"), "GET", maps, json!({}), 200),
        (&person("anna"), "POST", maps, map.clone(), 403),
        (&person("anna"), "GET", "/api/v1/configmaps", json!({}), 403),
        (&person("anna"), "GET", "/api/v1/namespaces/kube-system/configmaps", json!({}), 403),
        (&person("anna"), "GET", "/api/v1/namespaces/default/secrets", json!({}), 403),
        (&dev, "POST", maps, map.clone(), 201),
        (&dev, "GET", "/api/v1/namespaces/default/secrets", json!({}), 200),
        (&dev, "GET", &bindings, json!({}), 403),
        (&robot, "GET", &bindings, json!({}), 200),
        (&person("nobody"), "GET", maps, json!({}), 403),
    ] {
        let (got, answer) = server.json_as(user, method, path, &body).await;
        assert_eq!(got, code, "{} {method} {path}: {answer}", user.name);
    }
}

#[tokio::test]
async fn nobody_gives_what_he_has_not() {
    let server = Server::start().await;
    allow(
        &server,
        "anna",
        "maker",
        &[
            "create update patch||roles",
            "get create update patch|rbac.authorization.k8s.io|roles rolebindings clusterroles",
            "get list||pods",
        ],
    )
    .await;
    allow(
        &server,
        "olga",
        "free",
        &[
            "get create|rbac.authorization.k8s.io|roles rolebindings",
            "escalate|rbac.authorization.k8s.io|roles|any",
            "bind|rbac.authorization.k8s.io|clusterroles|view",
        ],
    )
    .await;
    let (anna, olga) = (person("anna"), person("olga"));
    let role = |name: &str, verbs: &[&str], resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": [resource]}]})
    };
    let bind = |name: &str, kind: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "x"}]})
    };
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let aggregating = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}, "rules": []});
    server.create(&roles, role("strong", &["*"], "secrets")).await;
    let cluster_roles = format!("{RBAC}/clusterroles");
    for (user, path, body, code) in [
        (&anna, &roles, role("fine", &["get"], "pods"), 201),
        (&anna, &roles, role("more", &["get", "delete"], "pods"), 403),
        (&anna, &roles, role("other", &["get"], "secrets"), 403),
        (&anna, &bindings, bind("fine", "Role", "fine"), 201),
        (&anna, &bindings, bind("strong", "Role", "strong"), 403),
        (&anna, &bindings, bind("admin", "ClusterRole", "cluster-admin"), 403),
        (&anna, &bindings, bind("gone", "Role", "gone"), 404),
        (&anna, &cluster_roles, aggregating, 403),
        (&olga, &roles, role("any", &["*"], "secrets"), 201),
        (&olga, &roles, role("else", &["*"], "secrets"), 403),
        (&olga, &bindings, bind("view", "ClusterRole", "view"), 201),
        (&olga, &bindings, bind("edit", "ClusterRole", "edit"), 403),
    ] {
        let (got, answer) = server.json_as(user, "POST", path, &body).await;
        assert_eq!(got, code, "{}: {body}: {answer}", user.name);
        if code == 403 {
            assert!(
                answer["message"]
                    .as_str()
                    .unwrap()
                    .contains("attempting to grant RBAC permissions not currently held:\n{"),
                "{answer}"
            );
        }
    }
    let more = json!({"rules": [{"verbs": ["get", "watch"], "apiGroups": [""], "resources": ["pods"]}]});
    let (code, answer) = server.json_as(&anna, "PATCH", &format!("{roles}/fine"), &more).await;
    assert!(
        code == 403
            && answer["message"]
                .as_str()
                .unwrap()
                .ends_with("{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}"),
        "{answer}"
    );
    let (code, answer) =
        server.json("PATCH", &format!("{bindings}/fine"), &json!({"roleRef": {"name": "strong"}})).await;
    assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["field"]), (422, &json!("roleRef")), "{answer}");
}

#[tokio::test]
async fn certificates_are_approved_by_who_may_for_their_signer() {
    let server = Server::start().await;
    allow(&server, "anna", "approver", &[
        "*|certificates.k8s.io|certificatesigningrequests certificatesigningrequests/approval certificatesigningrequests/status",
        "approve|certificates.k8s.io|signers|example.com/*",
        "sign|certificates.k8s.io|signers|example.com/one",
    ])
    .await;
    let anna = person("anna");
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |name: &str, signer: &str, organization: &str| {
        let pem = pki::create_certificate_request(&pki::new_key().unwrap(), "someone", organization, &[]).unwrap();
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"signerName": signer, "usages": ["client auth"], "request": base64::engine::general_purpose::STANDARD.encode(pem)}})
    };
    let client = "kubernetes.io/kube-apiserver-client";
    let (code, answer) = server.json_as(&anna, "POST", path, &request("king", client, "system:masters")).await;
    assert!(
        code == 403 && answer["message"].as_str().unwrap().contains("system:masters group is not allowed"),
        "{answer}"
    );
    for (name, signer, approve, sign) in
        [("a", "example.com/one", 200, 200), ("b", "example.com/two", 200, 403), ("c", client, 403, 403)]
    {
        let (code, made) = server.json_as(&anna, "POST", path, &request(name, signer, "dev")).await;
        assert_eq!((code, &made["spec"]["username"]), (201, &json!("anna")), "{made}");
        let mut approved = made.clone();
        approved["status"] =
            json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Me", "message": ""}]});
        let (code, answer) = server.json_as(&anna, "PUT", &format!("{path}/{name}/approval"), &approved).await;
        assert_eq!(code, approve, "{name}: {answer}");
        let signed = json!({"status": {"certificate": base64::engine::general_purpose::STANDARD.encode("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")}});
        let (code, answer) = server.json_as(&anna, "PATCH", &format!("{path}/{name}/status"), &signed).await;
        assert_eq!(code, sign, "{name}: {answer}");
    }
}

#[tokio::test]
async fn plugins_that_are_off_by_default_can_be_turned_on() {
    let plugins =
        ["ExtendedResourceToleration", "OwnerReferencesPermissionEnforcement"].map(|name| name.parse().unwrap());
    assert!("Magic".parse::<apiserver::Plugin>().is_err());
    let server = Server::start_with(|config| config.plugins = plugins.to_vec()).await;
    server
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"limits": {"example.com/gpu": "1", "cpu": "1"}}}]}});
    let made = server.create("/api/v1/namespaces/default/pods", pod).await;
    assert!(
        made["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .contains(&json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"})),
        "{made}"
    );
    allow(&server, "anna", "maps", &["create update patch||configmaps"]).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str, block: bool| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"], "blockOwnerDeletion": block}]}})
    };
    assert_eq!(server.json_as(&person("anna"), "POST", maps, &map("a", false)).await.0, 201);
    let (code, answer) = server.json_as(&person("anna"), "POST", maps, &map("b", true)).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("blockOwnerDeletion"), "{answer}");
    let (code, answer) = server
        .json_as(&person("anna"), "PATCH", &format!("{maps}/a"), &json!({"metadata": {"ownerReferences": null}}))
        .await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("you can't delete"), "{answer}");
}

/// A role of a few kilobytes may combine its verbs, groups, resources and names in more ways than there is memory.
#[tokio::test]
async fn roles_with_very_many_combinations_are_refused_and_not_taken_apart() {
    let server = Server::start().await;
    let keeper = person("keeper");
    allow(&server, "keeper", "keeper", &["create|rbac.authorization.k8s.io|roles|", "get|*|*|"]).await;
    let many = |what: &str, count: usize| -> Vec<String> { (0..count).map(|n| format!("{what}{n}")).collect() };
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, verbs: Vec<String>, count: usize| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": [{"verbs": verbs,
            "apiGroups": many("g", count), "resources": many("r", count), "resourceNames": many("n", count)}]})
    };
    let (code, answer) = server.json_as(&keeper, "POST", &roles, &role("wild", many("v", 2000), 2000)).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("in 16000000000000 ways"), "{answer}");
    // What is held as a whole isn't taken apart.
    let (code, answer) = server.json_as(&keeper, "POST", &roles, &role("large", vec!["get".into()], 2000)).await;
    assert_eq!(code, 201, "{answer}");
    let (code, answer) =
        server.json_as(&keeper, "POST", &roles, &role("small", vec!["get".into(), "list".into()], 2)).await;
    assert!(code == 403 && answer["message"].as_str().unwrap().contains("currently held:\n{"), "{answer}");
}
