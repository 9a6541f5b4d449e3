//! The kubelet's own API: logs, exec, attach, port-forward and statistics.
//!
//! The API server's certificate has the group `system:masters`; it has authorized its user already. Other clients are authenticated and
//! authorized by [`access`].

mod access;
mod channels;
#[deny(clippy::arithmetic_side_effects)]
mod legacy_forward;
mod logs;
mod portforward;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apimachinery::Status;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Client;
use parking_lot::Mutex;
use runtime::files::SharedWatch;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use access::{Access, User};

use crate::container_runtime::ContainerRuntime;
use crate::node::metrics;
use crate::node::stats::StatsProvider;
use crate::pod::manager::PodManager;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The listener and the certificates to serve with.
pub struct Serving {
    /// Where clients come.
    pub listener: TcpListener,
    /// Replaced when it is renewed.
    pub identity: Arc<pki::RotatingCertificate>,
    /// The authority of client certificates.
    pub authority_pem: String,
}

/// An answer in plain text.
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

/// Why the kubelet's API can't be served.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("the authority's certificate can't be read: {0}")]
    Authority(#[from] rustls::pki_types::pem::Error),
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

fn tls(identity: Arc<pki::RotatingCertificate>, authority_pem: &str) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority_pem.as_bytes())?;
    roots.add(ca)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated();
    let verifier = verifier.build()?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What the kubelet's API serves.
pub struct Server {
    /// The node's name.
    pub node_name: String,
    /// A client of the API, which is asked for the rights of clients.
    pub client: Client,
    /// The pods of this node.
    pub pods: Arc<PodManager>,
    /// Runs their containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What they use.
    pub stats: Arc<StatsProvider>,
    /// Changes of the logs that are followed.
    pub log_changes: SharedWatch,
}

/// Serves until the process ends.
pub async fn run(server: Arc<Server>, serving: Serving) {
    let acceptor = match tls(serving.identity.clone(), &serving.authority_pem) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%error, "failed to serve the kubelet API: its serving certificate can't be used");
            return std::future::pending().await;
        }
    };
    let access = Access::new(server.client.clone(), &server.node_name);
    let anonymous = AnonymousConnections::default();
    loop {
        let (stream, address) = match serving.listener.accept().await {
            Ok((stream, address)) => (stream, address.ip().to_canonical()),
            Err(error) => {
                // Out of file descriptors, most likely: connections that are there go on meanwhile.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = anonymous.admit(address);
        let revoked = permit.revoked.clone();
        let served = connection(server.clone(), access.clone(), acceptor.clone(), stream, permit);
        tasks::spawn("kubelet-connection", async move {
            // Without a log line: there would be no end of them.
            let _ = revoked.run_until_cancelled(served).await;
        });
    }
}

/// A client that takes longer than this to say hello is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes longer than this for the head of its next request is.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections an address may have that didn't show a certificate, or not yet.
const MAX_ANONYMOUS_CONNECTIONS: usize = 100;

/// Connections of clients without a certificate, by address, the oldest first. A client with a certificate of the cluster is none of
/// them once it has shown it: the API server alone may come with hundreds of streams. Where there is no permit left the oldest goes, not who
/// comes: pods come with the address of their node where that is another one, and so would keep out the API server of that machine.
#[derive(Debug, Clone, Default)]
struct AnonymousConnections(Arc<Mutex<HashMap<IpAddr, VecDeque<OpenConnection>>>>);

/// The permit of an anonymous connection: its number, and how it is closed.
type OpenConnection = (u64, CancellationToken);

impl AnonymousConnections {
    fn admit(&self, address: IpAddr) -> ConnectionPermit {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (number, revoked) = (NEXT.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut all = self.0.lock();
        let present = all.entry(address).or_default();
        if present.len() >= MAX_ANONYMOUS_CONNECTIONS
            && let Some((_, oldest)) = present.pop_front()
        {
            oldest.cancel();
        }
        present.push_back((number, revoked.clone()));
        ConnectionPermit { anonymous: self.clone(), address, number, revoked }
    }
}

/// Held by an anonymous connection until it ends or has shown a certificate.
struct ConnectionPermit {
    anonymous: AnonymousConnections,
    address: IpAddr,
    number: u64,
    /// Cancelled when the permit is given to another.
    revoked: CancellationToken,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut all = self.anonymous.0.lock();
        let Some(present) = all.get_mut(&self.address) else { return };
        present.retain(|(number, _)| *number != self.number);
        if present.is_empty() {
            all.remove(&self.address);
        }
    }
}

/// A client that has said hello in time.
async fn handshake<S>(acceptor: &TlsAcceptor, stream: S) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.ok()?.ok()
}

async fn connection(
    server: Arc<Server>,
    access: Arc<Access>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    permit: ConnectionPermit,
) {
    let _ = stream.set_nodelay(true);
    network::keepalive::enable(&stream);
    let Some(stream) = handshake(&acceptor, stream).await else { return };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let facts = leaf.and_then(|l| pki::parse_certificate_der(l).ok());
    let user = facts.map(|facts| User { name: facts.common_name, groups: facts.organizations });
    let _permit = Some(permit).filter(|_| user.is_none());
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, access, user) = (server.clone(), access.clone(), user.clone());
        async move {
            let asked = access.check(user.as_ref(), request.method(), request.uri().path(), request.headers()).await;
            Ok::<_, Infallible>(match asked {
                Ok(()) => route(&server, request).await,
                Err((status, why)) => text(status, why),
            })
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100).keep_alive_interval(HEAD_TIMEOUT);
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn route(server: &Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let known = matches!(*request.method(), Method::GET | Method::POST);
    match parts.as_slice() {
        ["stats", "summary"] => json(&server.stats.summary().await),
        ["metrics"] => text(StatusCode::OK, metrics::own(server.node_name.clone(), &server.stats).await),
        ["metrics", "resource"] => text(StatusCode::OK, metrics::resource(&server.stats.summary().await)),
        ["metrics", "cadvisor"] => text(StatusCode::OK, metrics::cadvisor(&server.stats.summary().await)),
        ["pods"] | ["runningpods"] => {
            let items: Vec<_> = server.pods.pods().iter().map(|p| serde_json::json!(p.as_ref())).collect();
            json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
        }
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] if known => {
            logs::serve(server, namespace, pod, container, request).await
        }
        ["exec", namespace, pod, container] if known => streams::exec(server, namespace, pod, container, request).await,
        ["attach", namespace, pod, container] if known => {
            streams::attach(server, namespace, pod, container, request).await
        }
        ["portForward", namespace, pod] if known => portforward::serve(server, namespace, pod, request).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// The query's parameters, as `key=value` pairs, decoded.
pub fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()).into_owned().collect()
}

/// Whether a parameter of the query is set.
pub fn flag(query: &[(String, String)], key: &str) -> bool {
    query.iter().any(|(k, v)| k == key && matches!(v.as_str(), "" | "1" | "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let identity = pki::self_signed("node.example").unwrap();
        let authority_pem = identity.certificate_pem.clone();
        let acceptor = tls(pki::RotatingCertificate::new(identity, "").unwrap(), &authority_pem).unwrap();
        let (begun, (_silent, stream)) = (tokio::time::Instant::now(), tokio::io::duplex(1 << 10));
        assert!(handshake(&acceptor, stream).await.is_none());
        assert_eq!(begun.elapsed(), HANDSHAKE_TIMEOUT);
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let anonymous = AnonymousConnections::default();
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mut permits: Vec<ConnectionPermit> = (0..MAX_ANONYMOUS_CONNECTIONS).map(|_| anonymous.admit(one)).collect();
        let elsewhere = anonymous.admit(other);
        let goes = |permit: &ConnectionPermit| permit.revoked.is_cancelled();
        assert!(!permits.iter().any(goes));
        // A new one is let in, and the oldest one is closed.
        let newcomer = anonymous.admit(one);
        assert!(!goes(&newcomer) && goes(&permits[0]) && !goes(&permits[1]) && !goes(&elsewhere));
        // One that has ended, or has shown a certificate, has left its permit to others, and isn't closed any more.
        drop(permits.remove(0));
        let known = permits.remove(0).revoked.clone();
        let more = anonymous.admit(one);
        assert!(!known.is_cancelled() && !permits.iter().any(goes));
        drop((permits, newcomer, elsewhere, more));
        assert!(anonymous.0.lock().is_empty());
    }
}
