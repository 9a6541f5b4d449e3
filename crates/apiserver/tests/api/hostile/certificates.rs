//! Who asks for certificates, who approves and who signs.

use apiserver::User;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{CSR, RBAC, binding, cluster, refuse, role, signing, user};
use crate::server::Server;

#[tokio::test]
async fn who_asks_for_a_certificate_is_who_he_is() {
    let server = cluster().await;
    let joiner = User::new("system:bootstrap:timonel", &["system:bootstrappers", "system:authenticated"]);
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let mut spoofed = signing("spoofed", signer, "system:node:n9", "system:nodes", "client auth");
    spoofed["spec"]["username"] = "system:node:n9".into();
    spoofed["spec"]["groups"] = json!(["system:nodes", "system:masters"]);
    refuse(
        &server,
        &joiner,
        vec![
            ("POST", CSR.into(), signing("a", signer, "system:node:n9", "system:nodes", "client auth"), 201, ""),
            ("POST", CSR.into(), spoofed, 201, ""),
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
    server.create(&format!("{RBAC}/clusterroles"), role("both", "ClusterRole", &rules)).await;
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
