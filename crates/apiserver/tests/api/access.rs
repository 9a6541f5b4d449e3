//! Who is let in, as whom, and to what.

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
async fn credentials_make_a_user_or_are_refused() {
    let server = Server::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    for name in ["robot", "default"] {
        server
            .create(accounts, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))
            .await;
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "robot", "nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", pod).await;
    server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    for (id, usage, expiration) in [
        ("aaaaaa", "true", "2999-01-01T00:00:00Z"),
        ("bbbbbb", "true", "2001-01-01T00:00:00Z"),
        ("cccccc", "false", ""),
    ] {
        let data = json!({"token-id": encode(id), "token-secret": encode("0123456789abcdef"), "expiration": encode(expiration),
            "usage-bootstrap-authentication": encode(usage), "auth-extra-groups": encode("system:bootstrappers:team,system:masters")});
        server
            .create(
                "/api/v1/namespaces/kube-system/secrets",
                json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                "metadata": {"name": format!("bootstrap-token-{id}")}, "data": data}),
            )
            .await;
    }

    let (code, user) = whoami(&server, Some(("anna", &["dev"])), &[]).await;
    assert_eq!(
        (code, &user["username"], &user["groups"]),
        (201, &json!("anna"), &json!(["dev", "system:authenticated"]))
    );
    assert_eq!(whoami(&server, None, &[]).await.0, 403, "nobody may ask only for health and version");
    for bad in [
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer bbbbbb.0123456789abcdef",
        "Bearer cccccc.0123456789abcdef",
        "Bearer aaaaaa.0123456789abcdee",
        "Bearer ",
    ] {
        let (code, status) = whoami(&server, Some(("anna", &["dev"])), &[("authorization", bad)]).await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{bad}: {status}");
    }
    let bootstrap = [("authorization", "Bearer aaaaaa.0123456789abcdef")];
    let (_, user) = whoami(&server, None, &bootstrap).await;
    assert_eq!(user["username"], "system:bootstrap:aaaaaa");
    assert_eq!(
        user["groups"],
        json!(["system:bootstrappers", "system:bootstrappers:team", "system:authenticated"]),
        "and no more"
    );

    let (code, answer) =
        account_token(&server, json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}})).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_string();
    let bearer = format!("Bearer {token}");
    let (_, user) = whoami(&server, None, &[("authorization", &bearer)]).await;
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n"]));
    assert!(user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI="));
    for (spec, code, words) in [
        (json!({"expirationSeconds": 5}), 422, "10 minutes"),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "gone"}}), 404, "not found"),
        (json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "other"}}), 409, "UID"),
        (json!({"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "p"}}), 400, "Kind=ConfigMap"),
    ] {
        let (got, answer) = account_token(&server, spec).await;
        assert!(got == code && answer["message"].as_str().unwrap().contains(words), "{answer}");
    }

    // A token for others is no key to this server, and can be reviewed by them.
    let (_, answer) = account_token(&server, json!({"audiences": ["vault"]})).await;
    let foreign = answer["status"]["token"].as_str().unwrap().to_string();
    assert_eq!(whoami(&server, None, &[("authorization", &format!("Bearer {foreign}"))]).await.0, 401);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    for (token, audiences, good) in [
        (&foreign, json!(["vault"]), true),
        (&foreign, json!(["other", "vault"]), true),
        (&foreign, json!([]), false),
        (&token, json!([]), true),
        (&token, json!(["vault"]), false),
        (&"aaaaaa.0123456789abcdef".to_string(), json!([]), true),
        (&"junk".to_string(), json!([]), false),
    ] {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let (_, review) = server.json("POST", reviews, &body).await;
        assert_eq!(review["status"]["authenticated"], good, "{audiences}: {review}");
        assert_eq!(review["status"].get("error").is_some(), !good, "{review}");
    }
    // Others can check the signature themselves.
    let about = server.read("/.well-known/openid-configuration").await;
    assert_eq!(about["issuer"], "https://kubernetes.default.svc.cluster.local");
    assert!(about["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"));
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(server.read("/openid/v1/jwks").await).unwrap();
    let header = jsonwebtoken::decode_header(&foreign).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut wanted = jsonwebtoken::Validation::new(header.alg);
    wanted.set_audience(&["vault"]);
    assert_eq!(
        jsonwebtoken::decode::<Value>(&foreign, &key, &wanted).unwrap().claims["sub"],
        "system:serviceaccount:default:robot"
    );

    // With the pod goes its token; with the account go all.
    let (code, _) = server.json("DELETE", "/api/v1/namespaces/default/pods/p", &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code, 200);
    assert_eq!(whoami(&server, None, &[("authorization", &bearer)]).await.0, 401);
    let (_, answer) = account_token(&server, json!({})).await;
    let free = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    assert_eq!(whoami(&server, None, &[("authorization", &free)]).await.0, 201);
    let (code, _) = server.json("DELETE", &format!("{accounts}/robot"), &json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(whoami(&server, None, &[("authorization", &free)]).await.0, 401);
}

#[tokio::test]
async fn whoever_may_acts_as_another() {
    let server = Server::start().await;
    allow(
        &server,
        "boss",
        "poser",
        &[
            "impersonate||users|anna",
            "impersonate||groups|dev",
            "impersonate||serviceaccounts|robot",
            "impersonate|authentication.k8s.io|uids|7",
            "impersonate|authentication.k8s.io|userextras/scopes|view",
        ],
    )
    .await;
    let boss = ("boss", &[] as &[&str]);
    let act = |headers: &'static [(&'static str, &'static str)]| whoami(&server, Some(boss), headers);
    let (_, user) = act(&[
        ("impersonate-user", "anna"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scopes", "view"),
    ])
    .await;
    assert_eq!(
        user,
        json!({"username": "anna", "groups": ["dev", "system:authenticated"], "uid": "7", "extra": {"scopes": ["view"]}})
    );
    let (_, user) = act(&[("impersonate-user", "system:serviceaccount:default:robot")]).await;
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    for (headers, words) in [
        (&[("impersonate-user", "root")][..], "cannot impersonate resource \"users\""),
        (
            &[("impersonate-user", "anna"), ("impersonate-group", "system:masters")],
            "cannot impersonate resource \"groups\"",
        ),
        (&[("impersonate-user", "anna"), ("impersonate-uid", "8")], "cannot impersonate resource \"uids\""),
        (
            &[("impersonate-user", "anna"), ("impersonate-extra-scopes", "edit")],
            "cannot impersonate resource \"userextras/scopes\"",
        ),
        (
            &[("impersonate-user", "system:serviceaccount:default:other")],
            "cannot impersonate resource \"serviceaccounts\"",
        ),
    ] {
        let (code, status) = whoami(&server, Some(boss), headers).await;
        assert!(code == 403 && status["message"].as_str().unwrap().contains(words), "{status}");
    }
    let (code, status) = act(&[("impersonate-group", "dev")]).await;
    assert!(code == 500 && status["message"].as_str().unwrap().contains("without impersonating a user"), "{status}");
    assert_eq!(whoami(&server, Some(("anna", &[])), &[("impersonate-user", "boss")]).await.0, 403);
    // As upstream: the headers of a request without credentials aren't passed over.
    let (code, status) = whoami(&server, None, &[("impersonate-user", "anna")]).await;
    assert!(code == 403 && status["message"].as_str().unwrap().contains("cannot impersonate resource"), "{status}");
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
        "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]}});
    let token = |pod: Option<&str>| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"boundObjectRef": pod.map(|name| json!({"kind": "Pod", "apiVersion": "v1", "name": name}))}})
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
