//! The kubelet's own API: logs, exec, attach, port-forward and statistics.
//!
//! The API server comes with a certificate of the cluster's authority with the group `system:masters`; whether its user may
//! do what he asks was decided there. Of others [`access`] finds out who they are and what they may.

mod access;
mod channels;
pub mod logs;
mod portforward;
pub mod spdy;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;

use apimachinery::Status;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use access::{Access, User};
pub use channels::{ERROR, Event, RESIZE, STDERR, STDIN, STDOUT, Sender, V4, Wants};

use crate::manager::Manager;
use crate::{metrics, stats};

pub const PORT: u16 = 10250;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The listener and the certificates to serve with.
pub struct Serving {
    pub listener: TcpListener,
    pub identity: pki::Identity,
    pub authority_pem: String,
}

pub fn text(code: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(message.into())).boxed_unsync());
    *response.status_mut() = code;
    response
}

/// What a stream is refused with. client-go takes for a Status whatever is YAML, also a text with a colon, of which it then shows
/// nothing.
fn refused(code: StatusCode, message: impl Into<String>) -> Response<Body> {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::FORBIDDEN => "Forbidden",
        _ => "BadRequest",
    };
    let mut response = json(&Status::new(code.as_u16(), reason, message).to_json());
    *response.status_mut() = code;
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn tls(serving: &Serving) -> Result<TlsAcceptor, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(serving.authority_pem.as_bytes()).map_err(|e| fail(&e))?;
    roots.add(ca).map_err(|e| fail(&e))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated();
    let verifier = verifier.build().map_err(|e| fail(&e))?;
    let certificate =
        CertificateDer::from_pem_slice(serving.identity.certificate_pem.as_bytes()).map_err(|e| fail(&e))?;
    let key = PrivateKeyDer::from_pem_slice(serving.identity.key_pem.as_bytes()).map_err(|e| fail(&e))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(|e| fail(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the process ends.
pub async fn run(manager: Arc<Manager>, serving: Serving) {
    let acceptor = match tls(&serving) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%error, "the kubelet's API can't be served: its certificate is unusable");
            return std::future::pending().await;
        }
    };
    let access = Access::new(manager.agent.client.clone(), &manager.agent.config.node_name);
    loop {
        let Ok((stream, _)) = serving.listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(connection(manager.clone(), access.clone(), acceptor.clone(), stream));
    }
}

async fn connection(manager: Arc<Manager>, access: Arc<Access>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let facts = leaf.and_then(|l| pki::certificate_names(l).ok());
    let user = facts.map(|facts| User { name: facts.common_name, groups: facts.organizations });
    let service = service_fn(move |request: Request<Incoming>| {
        let (manager, access, user) = (manager.clone(), access.clone(), user.clone());
        async move {
            let asked = access.check(user.as_ref(), request.method(), request.uri().path(), request.headers()).await;
            Ok::<_, Infallible>(match asked {
                Ok(()) => route(&manager, request).await,
                Err((status, why)) => text(status, why),
            })
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn route(manager: &Arc<Manager>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let known = matches!(*request.method(), Method::GET | Method::POST);
    match parts.as_slice() {
        ["stats", "summary"] => json(&stats::summary(manager).await),
        ["metrics"] => text(StatusCode::OK, metrics::own(manager).await),
        ["metrics", "resource"] => text(StatusCode::OK, metrics::of_summary(&stats::summary(manager).await, false)),
        ["metrics", "cadvisor"] => text(StatusCode::OK, metrics::of_summary(&stats::summary(manager).await, true)),
        ["pods"] | ["runningpods"] => {
            let items: Vec<_> = manager.pods().iter().map(|p| serde_json::json!(p.as_ref())).collect();
            json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
        }
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] if known => {
            logs::serve(manager, namespace, pod, container, &request).await
        }
        ["exec", namespace, pod, container] if known => {
            streams::exec(manager, namespace, pod, container, request).await
        }
        ["attach", namespace, pod, container] if known => {
            streams::attach(manager, namespace, pod, container, request).await
        }
        ["portForward", namespace, pod] if known => portforward::serve(manager, namespace, pod, request).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// The query's parameters, as `key=value` pairs, decoded.
pub fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()).into_owned().collect()
}

pub fn flag(query: &[(String, String)], key: &str) -> bool {
    query.iter().any(|(k, v)| k == key && matches!(v.as_str(), "" | "1" | "true"))
}

pub fn value<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}
