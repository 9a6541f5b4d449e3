//! Certificates of pods (KEP-4317) and trust bundles (KEP-3257): who may ask, sign and attest, and what a signer may give back.

use apimachinery::clock;
use apiserver::User;
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SubjectPublicKeyInfo};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::server::Server;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";

fn stub() -> (Vec<u8>, String) {
    let request = pki::new_key_and_request(pki::KeyType::P256).unwrap().request;
    (pki::key_of_request(&request).unwrap(), base64::engine::general_purpose::STANDARD.encode(request))
}

/// A chain for a key, that begins now and is good for so many seconds; and when it begins and ends.
fn chain(key: &[u8], seconds: i64) -> (String, OffsetDateTime, OffsetDateTime) {
    let (issuer_key, mut ca) = (KeyPair::generate().unwrap(), CertificateParams::default());
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = ca.self_signed(&issuer_key).unwrap().pem();
    let issuer = Issuer::new(ca, issuer_key);
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from_unix_timestamp(clock::now().as_second()).unwrap();
    params.not_after = params.not_before + Duration::seconds(seconds);
    let leaf = params.signed_by(&SubjectPublicKeyInfo::from_der(key).unwrap(), &issuer).unwrap();
    (format!("{}{authority}", leaf.pem()), params.not_before, params.not_after)
}

fn at(time: OffsetDateTime) -> String {
    clock::format_rfc3339(jiff::Timestamp::from_second(time.unix_timestamp()).unwrap())
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn request(name: &str, stub: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": name},
        "spec": {"signerName": "example.com/s", "podName": "p", "podUID": "1", "serviceAccountName": "default", "serviceAccountUID": "2",
            "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": stub}});
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn requests_for_pods_are_checked_field_by_field() {
    let server = Server::start().await;
    let (_, good) = stub();
    let made = server.create(REQUESTS, request("default", &good, json!({}))).await;
    assert_eq!(made["spec"]["maxExpirationSeconds"], 86400, "a day, if nobody says");
    for (more, words) in [
        (json!({"maxExpirationSeconds": 3600}), ""),
        (json!({"maxExpirationSeconds": 91 * 86400}), ""),
        (json!({"maxExpirationSeconds": 3599}), "must be in the range [3600, 7862400]"),
        (json!({"maxExpirationSeconds": 91 * 86400 + 1}), "must be in the range [3600, 7862400]"),
        (json!({"signerName": "kubernetes.io/x", "maxExpirationSeconds": 86401}), "must be in the range [3600, 86400]"),
        (json!({"signerName": "nowhere"}), "must be a fully qualified domain and path"),
        (json!({"podUID": ""}), "spec.podUID: Invalid value: \"\": must not be empty"),
        (json!({"nodeUID": "x".repeat(129)}), "spec.nodeUID: Too long: may not be more than 128 bytes"),
        (json!({"serviceAccountName": "A"}), "spec.serviceAccountName: Invalid value: \"A\""),
        (json!({"unverifiedUserAnnotations": {"example.com/a": "b"}}), ""),
        (json!({"unverifiedUserAnnotations": {"a": "b"}}), "must be a domain-prefixed key"),
        (json!({"stubPKCS10Request": "bm9uc2Vuc2U="}), "must be a valid PKCS#10 CSR"),
    ] {
        let (code, answer) =
            server.json("POST", &format!("{REQUESTS}?dryRun=All"), &request("x", &good, more.clone())).await;
        let right =
            if words.is_empty() { code == 201 } else { answer["message"].as_str().is_some_and(|m| m.contains(words)) };
        assert!(right, "{more}: {answer}");
    }
}

#[tokio::test]
async fn what_a_signer_gives_back_fits_the_request() {
    let server = Server::start().await;
    let (key, good) = stub();
    server.create(REQUESTS, request("x", &good, json!({"maxExpirationSeconds": 7200}))).await;
    let (pem, from, until) = chain(&key, 7200);
    let other = chain(&stub().0, 7200).0;
    let (long, long_from, long_until) = chain(&key, 7201);
    let (short, short_from, short_until) = chain(&key, 3599);
    let issued = |pem: &str, from: OffsetDateTime, until: OffsetDateTime, refresh: OffsetDateTime| json!({"conditions": [condition("Issued")], "certificateChain": pem, "notBefore": at(from), "notAfter": at(until), "beginRefreshAt": at(refresh)});
    let minutes = Duration::minutes;
    let status = format!("{REQUESTS}/x/status");
    for (status_of, words) in [
        (
            json!({"certificateChain": pem}),
            "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        ),
        (json!({"conditions": [condition("Other")]}), "Unsupported value: \"Other\""),
        (json!({"conditions": [condition("Issued"), condition("Denied")]}), "at most one condition"),
        (
            json!({"conditions": [condition("Denied")], "certificateChain": pem}),
            "non-condition status fields must be empty",
        ),
        (
            json!({"conditions": [condition("Issued")]}),
            "issued certificate chain must contain at least one certificate",
        ),
        (
            issued(&other, from, until, from + minutes(30)),
            "leaf certificate was not issued to the requested public key",
        ),
        (issued(&long, long_from, long_until, long_from + minutes(30)), "must be <= spec.maxExpirationSeconds (7200)"),
        (
            issued(&short, short_from, short_until, short_from + minutes(30)),
            "leaf certificate lifetime must be >= 1 hour",
        ),
        (issued(&pem, from - minutes(1), until, from + minutes(30)), "must be set to the NotBefore time"),
        (issued(&pem, from, until + minutes(1), from + minutes(30)), "must be set to the NotAfter time"),
        (issued(&pem, from, until, from + minutes(9)), "at least 10 minutes after status.notBefore"),
        (issued(&pem, from, until, until - minutes(9)), "at least 10 minutes before status.notAfter"),
        (json!({"conditions": [condition("Issued")], "certificateChain": pem}), "status.notBefore: Required value"),
        (
            issued(&format!("{pem}-----BEGIN X-----\nYQ==\n-----END X-----\n"), from, until, from + minutes(30)),
            "must consist entirely of CERTFICATE",
        ),
    ] {
        let (code, answer) = server.patch(&status, "merge-patch+json", &json!({"status": status_of})).await;
        assert!(code == 422 && answer["message"].as_str().unwrap().contains(words), "{words}: {answer}");
    }
    let done = json!({"status": issued(&pem, from, until, from + minutes(30))});
    let (code, answer) = server.patch(&status, "merge-patch+json", &done).await;
    assert_eq!(code, 200, "{answer}");
    let again = json!({"status": {"beginRefreshAt": at(from + minutes(40))}});
    let (code, answer) = server.patch(&status, "merge-patch+json", &again).await;
    assert!(
        code == 422 && answer["message"].as_str().unwrap().contains("immutable after PodCertificateRequest is issued"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_may_sign_and_attest_is_asked_by_signer() {
    let server = Server::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let rules = |verbs: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": resources});
    let mut of_signer = rules(&["sign", "attest"], &["signers"]);
    of_signer["resourceNames"] = json!(["example.com/*"]);
    let write = rules(&["create", "update", "patch"], &["podcertificaterequests/status", "clustertrustbundles"]);
    for (name, rules) in [("signer", json!([write, of_signer])), ("other", json!([write]))] {
        server.create(&format!("{roles}/clusterroles"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})).await;
        server.create(&format!("{roles}/clusterrolebindings"), json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}]})).await;
    }
    let (signer, other) = (User::new("signer", &[]), User::new("other", &[]));
    let (_, good) = stub();
    server.create(REQUESTS, request("x", &good, json!({}))).await;
    let denied = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "status": {"conditions": [condition("Denied")]}});
    let (code, answer) = server.json_as(&other, "PATCH", &format!("{REQUESTS}/x/status"), &denied).await;
    let why = "User \"other\" is not permitted to \"sign\" for signer \"example.com/s\"";
    assert!(code == 422 && answer["message"].as_str().unwrap().contains(why), "{answer}");
    let (code, answer) = server.json_as(&signer, "PATCH", &format!("{REQUESTS}/x/status"), &denied).await;
    assert_eq!(code, 200, "{answer}");
    let folder = tempfile::tempdir().unwrap();
    let pem = pki::Authority::load_or_create(folder.path(), "ca").unwrap().certificate_pem().to_string();
    let bundle = |name: &str, signer: &str| json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": pem}});
    let (code, answer) = server.json_as(&other, "POST", BUNDLES, &bundle("example.com:s:a", "example.com/s")).await;
    assert!(
        code == 403
            && answer["message"]
                .as_str()
                .unwrap()
                .contains("user not permitted to attest for signerName \"example.com/s\""),
        "{answer}"
    );
    assert_eq!(
        server.json_as(&other, "POST", BUNDLES, &bundle("plain", "")).await.0,
        201,
        "one of no signer is anybody's who may write it"
    );
    assert_eq!(server.json_as(&signer, "POST", BUNDLES, &bundle("example.com:s:a", "example.com/s")).await.0, 201);
    let (code, answer) = server.json_as(&signer, "POST", BUNDLES, &bundle("a", "example.com/s")).await;
    assert!(
        code == 422 && answer["message"].as_str().unwrap().contains("must be named with prefix example.com:s:"),
        "{answer}"
    );
    let account = User::new("system:serviceaccount:default:any", &["system:serviceaccounts", "system:authenticated"]);
    assert_eq!(
        server.json_as(&account, "GET", BUNDLES, &Value::Null).await.0,
        200,
        "whom to trust is for every pod to read"
    );
}

#[tokio::test]
async fn a_kubelet_asks_for_its_own_pods_and_says_of_them_what_is_true() {
    let server = Server::start().await;
    let node = |name: &str| User::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
    let (n, m) = (node("n"), node("m"));
    let account = server
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        )
        .await;
    let of_node =
        server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let mounts = json!([{"name": "v", "projected": {"sources": [{"podCertificate": {"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "c"}}]}}]);
    let pod = |name: &str, volumes: &Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": "n", "volumes": volumes, "containers": [{"name": "c", "image": "i"}]}});
    let p = server.create("/api/v1/namespaces/default/pods", pod("p", &mounts)).await;
    let q = server.create("/api/v1/namespaces/default/pods", pod("q", &json!([]))).await;
    let uid = |of: &Value| of["metadata"]["uid"].clone();
    let (_, good) = stub();
    let truth = json!({"podUID": uid(&p), "serviceAccountUID": uid(&account), "nodeUID": uid(&of_node)});
    let but = |key: &str, value: Value| {
        let mut other = truth.clone();
        other[key] = value;
        other
    };
    let mut of_q = but("podName", json!("q"));
    of_q["podUID"] = uid(&q);
    for (user, more, words) in [
        (&m, truth.clone(), "which is not the requesting node \"m\""),
        (&n, but("nodeUID", json!("x")), "inconsistent with the running node"),
        (&n, but("podUID", json!("x")), "which differs from running pod"),
        (&n, but("podName", json!("gone")), "not found"),
        (&n, but("serviceAccountName", json!("other")), "that differs from running pod"),
        (&n, but("serviceAccountUID", json!("x")), "which differs from the running service account"),
        (&n, but("signerName", json!("example.com/other")), "does not mount a podCertificate projected volume"),
        (&n, of_q, "does not mount a podCertificate projected volume"),
        (&n, truth.clone(), ""),
    ] {
        let (code, answer) = server.json_as(user, "POST", REQUESTS, &request("x", &good, more.clone())).await;
        let right = if words.is_empty() {
            code == 201
        } else {
            code == 403 && answer["message"].as_str().unwrap().contains(words)
        };
        assert!(right, "{more}: {answer}");
    }
    let one = format!("{REQUESTS}/x");
    let denied = json!({"status": {"conditions": [condition("Denied")]}});
    for (user, method, path, code) in [
        (&n, "GET", one.clone(), 200),
        (&m, "GET", one.clone(), 403),
        (&n, "GET", REQUESTS.to_string(), 403),
        (&n, "GET", format!("{REQUESTS}?fieldSelector=metadata.name%3Dx"), 200),
        (&n, "DELETE", one.clone(), 403),
        (&n, "GET", "/api/v1/namespaces/default/serviceaccounts/default".into(), 200),
        (&m, "GET", "/api/v1/namespaces/default/serviceaccounts/default".into(), 403),
        (&n, "PATCH", format!("{one}/status"), 403),
        (&m, "GET", BUNDLES.to_string(), 200),
    ] {
        let (got, answer) = server.json_as(user, method, &path, &denied).await;
        assert_eq!(got, code, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn volumes_of_certificates_and_authorities_are_checked() {
    let certificate = |more: &str| {
        format!(
            "Pod spec: {{volumes: [{{name: v, projected: {{sources: [{{podCertificate: {{signerName: example.com/s, {more}}}}}]}}}}]}}"
        )
    };
    let bundle = |more: &str| {
        format!("Pod spec: {{volumes: [{{name: v, projected: {{sources: [{{clusterTrustBundle: {{{more}}}}}]}}}}]}}")
    };
    let rows = [
        (certificate("keyType: ED25519, credentialBundlePath: c, maxExpirationSeconds: 3600"), ""),
        (certificate("keyType: ECDSAP521, keyPath: k, certificateChainPath: c, maxExpirationSeconds: 7862400"), ""),
        (
            certificate("keyType: RSA2048, keyPath: k"),
            "keyType: Unsupported value: \"RSA2048\": supported values: \"RSA3072\", \"RSA4096\", \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\"",
        ),
        (
            certificate("keyType: ED25519, keyPath: k, maxExpirationSeconds: 3599"),
            "if provided, maxExpirationSeconds must be >= 3600",
        ),
        (
            certificate("keyType: ED25519, keyPath: k, maxExpirationSeconds: 7862401"),
            "if provided, maxExpirationSeconds must be <= 7862400",
        ),
        (
            certificate("keyType: ED25519"),
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
        ),
        (certificate("keyType: ED25519, keyPath: ../k"), "must not contain '..'"),
        (certificate("keyType: ED25519, keyPath: k, certificateChainPath: k"), "conflicting duplicate paths"),
        (certificate("keyType: ED25519, keyPath: k, userAnnotations: {a: b}"), "must be a domain-prefixed key"),
        (bundle("name: example.com:s:v1, path: p"), ""),
        (bundle("signerName: example.com/s, path: p"), ""),
        (bundle("signerName: example.com/s, labelSelector: {matchLabels: {a: b}}, path: p, optional: true"), ""),
        (bundle("name: A, path: p"), "not a valid clustertrustbundlename"),
        (bundle("name: a, signerName: example.com/s, path: p"), "only one of name and signerName may be used"),
        (bundle("path: p"), "either name or signerName must be specified"),
        (bundle("name: a, labelSelector: {}, path: p"), "labelSelector must be unset if name is specified"),
        (bundle("name: a"), "path: Required value"),
        (bundle("signerName: nowhere, path: p"), "must be a fully qualified domain and path"),
    ];
    crate::reports::judged(&rows.each_ref().map(|(row, words)| (row.as_str(), *words))).await;
}
