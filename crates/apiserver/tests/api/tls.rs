//! Certificates of clients, over TLS as they come.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// A connection with a client's certificate, if any, for a protocol.
async fn connect(
    address: std::net::SocketAddr,
    authority: &str,
    identity: Option<&pki::Identity>,
    protocol: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let mut config = config;
    config.alpn_protocols = vec![protocol.into()];
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Code and body of the answer to a GET with a client's certificate, if any.
async fn get(address: std::net::SocketAddr, authority: &str, identity: Option<&pki::Identity>) -> (u16, Value) {
    let mut stream = connect(address, authority, identity, "http/1.1").await;
    stream.write_all(b"GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    // The server may close without a farewell.
    let _ = stream.read_to_string(&mut text).await;
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap_or_default())
}

/// Serves over TLS until the token is cancelled.
async fn serve(server: &Server) -> (std::net::SocketAddr, CancellationToken) {
    let names = ["localhost".to_string()];
    let serving = server.authority.issue("localhost", None, &[pki::Usage::Server], &names).unwrap();
    let serving = pki::RotatingCertificate::new(serving, server.authority.certificate_pem()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(apiserver::serve(server.api.clone(), listener, serving, stop.clone()));
    (address, stop)
}

#[tokio::test]
async fn a_certificate_of_somebody_else_makes_nobody() {
    let server = Server::start().await;
    let (address, stop) = serve(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let other = pki::Authority::load_or_create(&folder.path().join("other"), "ca").unwrap();
    let usages = [pki::Usage::Client, pki::Usage::Server];
    let ours = server.authority.issue("anna", Some("dev"), &usages, &[]).unwrap();
    let theirs = other.issue("anna", Some("system:masters"), &usages, &[]).unwrap();
    let authority = server.authority.certificate_pem().to_string();
    let (code, _) = get(address, &authority, Some(&ours)).await;
    assert_eq!(code, 200);
    let (code, status) = get(address, &authority, Some(&theirs)).await;
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{status}");
    let (code, status) = get(address, &authority, None).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
    stop.cancel();
}

/// A node has one connection, over which it watches each object that its pods' volumes show; who may make pods decides how many these are.
#[tokio::test]
async fn a_node_is_answered_beside_all_that_it_watches() {
    const WATCHES: usize = 1500;
    let server = Server::start().await;
    let (address, stop) = serve(&server).await;
    let usages = [pki::Usage::Client];
    let node = server.authority.issue("system:node:n1", Some("system:nodes"), &usages, &[]).unwrap();
    let stream = connect(address, server.authority.certificate_pem(), Some(&node), "h2").await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"));
        request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        let answer = sender.send_request(ask("/api/v1/services?watch=true&resourceVersion=0")).await.unwrap();
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    let answer = sender.send_request(ask("/api/v1/nodes/n1")).await.unwrap();
    assert_eq!(answer.status(), 404);
    stop.cancel();
}
