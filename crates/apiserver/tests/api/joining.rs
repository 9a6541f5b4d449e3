//! Names of nodes, and who has them.

use bytes::Bytes;
use http::Request;
use serde_json::json;

use crate::server::{Server, read};
use apiserver::{Peer, User};
use http_body_util::{BodyExt as _, Full};

async fn claim(server: &Server, authorization: &str, name: &str, password: &str) -> (u16, String) {
    let request = Request::post(format!("/timonel/join/{name}"))
        .header("authorization", authorization)
        .header("timonel-node-password", password)
        .body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    let (code, _, bytes) = read(server.api.handle(request.unwrap(), Peer::Remote(None)).await).await;
    (code.as_u16(), String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_nodes_name_is_its_machines_until_the_node_is_deleted() {
    let server = Server::start().await;
    let (first, second) = ("0123456789abcdef-1", "0123456789abcdef-2");
    let by_token = "Bearer secret";
    let (code, ticket) = claim(&server, by_token, "n", first).await;
    assert_eq!(code, 200, "{ticket}");
    let secret = server.read("/api/v1/namespaces/kube-system/secrets/n.node-password.timonel").await;
    let kept = serde_json::to_string(&secret).unwrap();
    assert!(!kept.contains(first), "the password itself is kept nowhere");

    // There is no Node yet: the name may still go to another machine.
    assert_eq!(claim(&server, by_token, "n", second).await.0, 200);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    assert_eq!(server.json("POST", "/api/v1/nodes", &node).await.0, 201);
    assert_eq!(claim(&server, by_token, "n", second).await.0, 200);
    let (code, why) = claim(&server, by_token, "n", first).await;
    assert_eq!(code, 403);
    assert!(why.contains("another machine has this name") && why.contains("kubectl delete node n"), "{why}");

    // A node whose Node was there before names had owners takes its own.
    let old = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "old"}});
    server.json("POST", "/api/v1/nodes", &old).await;
    assert_eq!(claim(&server, by_token, "old", first).await.0, 200);
    assert_eq!(claim(&server, by_token, "old", second).await.0, 403);

    // Nobody else, and nothing that is no name or no password.
    assert_eq!(claim(&server, "Bearer wrong", "m", first).await.0, 401);
    assert_eq!(claim(&server, by_token, "M_", first).await.0, 400);
    assert_eq!(claim(&server, by_token, "m", "short").await.0, 400);
    assert_eq!(claim(&server, by_token, "m", &"x".repeat(300)).await.0, 400);
    let anonymous = Request::post("/timonel/join/m").header("timonel-node-password", first);
    assert_eq!(server.remote(None, anonymous.body(Bytes::new()).unwrap()).await.0, 403);
    let other = Request::post("/timonel/join/m").header("timonel-node-password", first).body(Bytes::new()).unwrap();
    assert_eq!(server.remote(Some(("system:node:n", &["system:nodes"])), other).await.0, 403);

    // The server's own machine takes its name in any case.
    apiserver::joining::take(&server.api, "old", second).await.unwrap();
    assert_eq!(claim(&server, by_token, "old", first).await.0, 403);
    assert_eq!(claim(&server, by_token, "old", second).await.0, 200);

    // The Node's deletion frees the name.
    assert_eq!(server.json("DELETE", "/api/v1/nodes/n", &json!({})).await.0, 200);
    assert_eq!(claim(&server, by_token, "n", first).await.0, 200);
}

#[tokio::test]
async fn who_claims_one_name_after_the_other_does_not_fill_the_database() {
    let server = Server::start().await;
    let password = "0123456789abcdef";
    server
        .json("POST", "/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "kept"}}))
        .await;
    for name in ["kept".to_string()].into_iter().chain((0..520).map(|number| format!("n{number}"))) {
        assert_eq!(claim(&server, "Bearer secret", &name, password).await.0, 200, "{name}");
    }
    let secrets = server.read("/api/v1/namespaces/kube-system/secrets").await;
    let names: Vec<&str> =
        secrets["items"].as_array().unwrap().iter().filter_map(|s| s["metadata"]["name"].as_str()).collect();
    let of = |name: &str| names.contains(&format!("{name}.node-password.timonel").as_str());
    assert_eq!(names.iter().filter(|name| name.ends_with(".node-password.timonel")).count(), 501);
    assert!(of("kept") && !of("n0") && of("n519"), "the oldest are forgotten, and none that there is a Node of");
    assert_eq!(claim(&server, "Bearer secret", "kept", "fedcba9876543210").await.0, 403);
}

#[tokio::test]
async fn a_ticket_says_for_which_name_it_asks() {
    let server = Server::start().await;
    let (_, ticket) = claim(&server, "Bearer secret", "n", "0123456789abcdef").await;
    let key = pki::new_key().unwrap();
    let request = pki::create_certificate_request(&key, "system:node:n", "system:nodes", &[]).unwrap();
    use base64::Engine as _;
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["client auth"], "request": request,
                 "uid": "mine", "extra": {"timonel.io/node-name": ["other"]}}});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let ask = |authorization: String| {
        let request =
            Request::post(path).header("authorization", authorization).header("content-type", "application/json");
        server.remote(None, request.body(Bytes::from(object.to_string())).unwrap())
    };
    let (code, made) = ask(format!("Bearer {ticket}")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["extra"], json!({"timonel.io/node-name": ["n"]}), "what is said of oneself doesn't count");
    assert!(made["spec"]["uid"].is_null());
    let (code, made) = ask("Bearer secret".into()).await;
    assert_eq!((code, &made["spec"]["extra"]), (201, &serde_json::Value::Null));
    let mut bent = ticket.into_bytes();
    let last = bent.len() - 3;
    bent[last] ^= 1;
    assert_eq!(ask(format!("Bearer {}", String::from_utf8_lossy(&bent))).await.0, 401);
    // Whoever is somebody else keeps nothing of it.
    let (code, made) = server.json_as(&User::new("anna", &["system:masters"]), "POST", path, &object).await;
    assert_eq!((code, &made["spec"]["extra"]), (201, &serde_json::Value::Null));
}
