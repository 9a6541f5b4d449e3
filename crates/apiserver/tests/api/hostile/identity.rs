//! Who somebody is, and stays.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::{T1, cluster, refuse, user};
use crate::server::Server;

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
}
