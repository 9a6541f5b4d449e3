//! Tokens of bootstrap and of service accounts, and certificate requests.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, names};

#[tokio::test(start_paused = true)]
async fn old_certificate_requests_are_swept() {
    let cluster = Cluster::start(1).await;
    let csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
        "spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==",
            "signerName": "example.com/own", "usages": ["client auth"]}});
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    cluster.post(requests, csr).await;
    sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(names(&cluster.list(requests).await), ["r"]);
    sleep(Duration::from_secs(2 * 3600)).await;
    assert!(cluster.list(requests).await.is_empty(), "nobody approved it for a day");
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_signers_rules_is_not_signed_whoever_approved_it() {
    let cluster = Cluster::start(1).await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (client, node) = ("kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet");
    let pem =
        |user: &str, group: &str| pki::create_certificate_request(&pki::new_key().unwrap(), user, group, &[]).unwrap();
    // `O=system:nodes, CN=system:node:evil, CN=system:kube-controller-manager`
    let twice = include_str!("../../../pki/src/testdata/two-names.csr").to_string();
    for (name, signer, pem, reason) in [
        ("anna", client, pem("anna", "dev"), ""),
        ("renewed", node, pem("system:node:n-0", "system:nodes"), ""),
        ("masters", node, pem("system:node:x", "system:masters"), "SignerValidationFailure"),
        ("manager", node, pem("system:kube-controller-manager", "system:nodes"), "SignerValidationFailure"),
        ("serving", "kubernetes.io/kubelet-serving", pem("system:node:x", "system:nodes"), "SignerValidationFailure"),
        ("twice", node, twice, "SigningFailed"),
    ] {
        let usage = if name == "serving" { "server auth" } else { "client auth" };
        let csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": STANDARD.encode(&pem), "signerName": signer, "usages": ["digital signature", usage]}});
        cluster.post(requests, csr).await;
        let path = format!("{requests}/{name}");
        let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Me"}]}});
        if name != "twice" {
            cluster.patch(&format!("{path}/approval"), approved).await;
        }
        let failed = |csr: &Value| {
            let conditions = csr["status"]["conditions"].as_array().into_iter().flatten();
            conditions.filter(|c| c["type"] == "Failed").filter_map(|c| c["reason"].as_str()).collect::<String>()
        };
        let done =
            cluster.until(&path, |csr| csr["status"]["certificate"].is_string() || !failed(csr).is_empty()).await;
        assert_eq!(failed(&done), reason, "{name}: {}", done["status"]);
    }
}

#[tokio::test(start_paused = true)]
async fn bootstrap_tokens_go_when_their_time_is_over() {
    let cluster = Cluster::start(0).await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    // The clock starts at 10:00:30.
    for (id, until) in [("aaaaaa", "2026-03-02T10:30:00Z"), ("bbbbbb", "2026-03-02T12:30:00Z"), ("cccccc", "")] {
        let data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "expiration": until});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("bootstrap-token-{id}")},
            "type": "bootstrap.kubernetes.io/token", "stringData": data});
        cluster.post(secrets, secret).await;
    }
    let tokens = async || {
        let all = cluster.list(secrets).await;
        names(&all).iter().filter_map(|n| n.strip_prefix("bootstrap-token-").map(String::from)).collect::<Vec<_>>()
    };
    sleep(Duration::from_secs(29 * 60)).await;
    assert_eq!(tokens().await, ["aaaaaa", "bbbbbb", "cccccc"]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(tokens().await, ["bbbbbb", "cccccc"]);
    sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(tokens().await, ["cccccc"]);
}

#[tokio::test(start_paused = true)]
async fn secrets_hold_tokens_of_accounts_and_go_with_them() {
    let cluster = Cluster::start(0).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    cluster.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    for (name, account) in [("for-robot", "robot"), ("for-nobody", "nobody")] {
        let meta = json!({"name": name, "annotations": {"kubernetes.io/service-account.name": account}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"});
        cluster.post(secrets, secret).await;
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(names(&cluster.list(secrets).await), ["for-robot"], "a token of no account goes");
    let path = format!("{secrets}/for-robot");
    let secret = cluster.get(&path).await;
    let uid = cluster.get("/api/v1/namespaces/default/serviceaccounts/robot").await["metadata"]["uid"].clone();
    assert_eq!(secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"], uid);
    assert_eq!(secret["data"]["namespace"], STANDARD.encode("default"));
    assert!(secret["data"]["ca.crt"].as_str().unwrap().len() > 100);
    let token = STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": String::from_utf8(token).unwrap()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = cluster.post(reviews, review.clone()).await["status"].clone();
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot", "{status}");
    // Something else takes its place: the token is good for nothing.
    cluster.patch(&path, json!({"data": {"token": STANDARD.encode("other")}})).await;
    assert_ne!(cluster.post(reviews, review.clone()).await["status"]["authenticated"], true);
    // A token that goes is taken out of its account's list, and nothing else is.
    let robot = "/api/v1/namespaces/default/serviceaccounts/robot";
    let meta = json!({"name": "second", "annotations": {"kubernetes.io/service-account.name": "robot"}});
    let second =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"});
    cluster.post(secrets, second).await;
    cluster.until(&format!("{secrets}/second"), |s| s["data"]["token"].is_string()).await;
    cluster.patch(robot, json!({"secrets": [{"name": "second"}, {"name": "for-robot"}]})).await;
    cluster.delete(&format!("{secrets}/second"), Value::Null).await;
    cluster.until(robot, |a| a["secrets"] == json!([{"name": "for-robot"}])).await;
    cluster.delete(robot, Value::Null).await;
    sleep(Duration::from_secs(5)).await;
    assert!(cluster.list(secrets).await.is_empty(), "it goes with its account");
}

#[tokio::test(start_paused = true)]
async fn cluster_info_is_signed_by_every_token_that_may() {
    let cluster = Cluster::start(0).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "content"}});
    cluster.post("/api/v1/namespaces/kube-public/configmaps", config).await;
    for (id, signs) in [("aaaaaa", "true"), ("bbbbbb", "false")] {
        let data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": signs});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("bootstrap-token-{id}")},
            "type": "bootstrap.kubernetes.io/token", "stringData": data});
        cluster.post("/api/v1/namespaces/kube-system/secrets", secret).await;
    }
    sleep(Duration::from_secs(5)).await;
    let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    let signatures = async || {
        let data = cluster.get(path).await["data"].as_object().cloned().unwrap();
        data.into_iter().filter(|(key, _)| key != "kubeconfig").collect::<Vec<_>>()
    };
    let first = signatures().await;
    let expected = pki::detached_signature(b"content", "aaaaaa", b"0123456789abcdef").unwrap();
    assert_eq!(first, [("jws-kubeconfig-aaaaaa".to_string(), json!(expected))]);
    cluster.patch(path, json!({"data": {"kubeconfig": "other"}})).await;
    sleep(Duration::from_secs(5)).await;
    assert_ne!(signatures().await, first, "what is signed has changed");
    cluster.delete("/api/v1/namespaces/kube-system/secrets/bootstrap-token-aaaaaa", Value::Null).await;
    sleep(Duration::from_secs(5)).await;
    assert!(signatures().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn tokens_that_nobody_uses_for_a_year_are_refused_and_then_go() {
    let cluster = Cluster::without_loops().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let robot = "/api/v1/namespaces/default/serviceaccounts/robot";
    let listed: Vec<Value> = ["idle", "used", "mounted"].map(|name| json!({"name": name})).into();
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}, "secrets": listed});
    cluster.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    for name in ["idle", "used", "mounted", "own"] {
        let meta = json!({"name": name, "annotations": {"kubernetes.io/service-account.name": "robot"}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"});
        cluster.post(secrets, secret).await;
    }
    let life = cluster.start_loops(usize::MAX);
    cluster.until_list(secrets, |all| all.len() == 4 && all.iter().all(|s| s["data"]["token"].is_string())).await;
    cluster
        .create(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: one}], volumes: [{name: v, secret: {secretName: \
             mounted}}]}}",
        )
        .await;
    cluster
        .until("/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking", |m| {
            m["data"]["since"] == "2026-03-02"
        })
        .await;
    life.end();
    let year = Duration::from_secs(366 * 24 * 3600);
    tokio::time::advance(year).await;
    let review = async |name: &str| {
        let secret = cluster.get(&format!("{secrets}/{name}")).await;
        let token = STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap();
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": String::from_utf8(token).unwrap()}});
        cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"]["authenticated"] == true
    };
    assert!(review("used").await);
    let label = |s: &Value, what: &str| s["metadata"]["labels"][format!("kubernetes.io/legacy-token-{what}")].clone();
    cluster.until(&format!("{secrets}/used"), |s| label(s, "last-used") == "2027-03-03").await;
    let life = cluster.start_loops(usize::MAX);
    cluster.until(&format!("{secrets}/idle"), |s| label(s, "invalid-since") == "2027-03-03").await;
    assert!(!review("idle").await && review("mounted").await && review("own").await);
    sleep(Duration::from_secs(5)).await;
    for name in ["used", "mounted", "own"] {
        assert!(label(&cluster.get(&format!("{secrets}/{name}")).await, "invalid-since").is_null(), "{name}");
    }
    life.end();
    tokio::time::advance(year).await;
    cluster.start_loops(usize::MAX);
    cluster.until(&format!("{secrets}/idle"), Value::is_null).await;
    // It is taken out of the account's list, too.
    cluster.until(robot, |a| a["secrets"].as_array().map(Vec::len) == Some(2)).await;
    assert!(cluster.get(&format!("{secrets}/mounted")).await["data"]["token"].is_string());
}
