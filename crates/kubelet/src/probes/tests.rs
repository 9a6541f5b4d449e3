//! Probes against servers of their own, on loopback.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use super::*;

fn target() -> Target {
    Target { id: String::new(), ip: "127.0.0.1".parse().unwrap(), container: Container::default() }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn https_is_asked_without_knowing_the_certificate() {
    let identity = pki::self_signed("probe.example").unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|request: ::http::Request<hyper::body::Incoming>| async move {
                let code = if request.uri().path() == "/well" { 200 } else { 503 };
                let answer = ::http::Response::builder().status(code).body(Full::new(Bytes::from("x"))).unwrap();
                Ok::<_, Infallible>(answer)
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let get = |path: &str| HTTPGetAction {
        path: Some(path.into()),
        port: IntOrString::Int(port.into()),
        scheme: Some("HTTPS".into()),
        ..HTTPGetAction::default()
    };
    assert_eq!(http::get(&target(), &get("/well")).await, Ok(()));
    assert_eq!(http::get(&target(), &get("/ill")).await, Err("HTTP probe failed with statuscode: 503".into()));
}

#[tokio::test]
async fn grpc_health_is_asked_for() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: ::http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                // SERVING for "db", NOT_SERVING for the rest.
                let status = if asked.ends_with(b"db") { 1 } else { 2 };
                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                let mut trailers = ::http::HeaderMap::new();
                trailers.insert("grpc-status", ::http::HeaderValue::from_static("0"));
                let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
                Ok::<_, Infallible>(::http::Response::new(body))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let action = |service: &str| GRPCAction { port: port.into(), service: Some(service.into()), mode: None };
    assert_eq!(grpc::check(&target(), &action("db")).await, Ok(()));
    assert!(grpc::check(&target(), &action("cache")).await.unwrap_err().contains("NOT_SERVING"));
    let nobody = GRPCAction { port: 1, service: None, mode: None };
    assert!(grpc::check(&target(), &nobody).await.unwrap_err().contains("dial tcp"));
}
