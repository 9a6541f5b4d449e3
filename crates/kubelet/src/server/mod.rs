//! The kubelet's own API: logs, exec, attach, port-forward and statistics.
//!
//! The API server comes with a certificate of the cluster's authority with the group `system:masters`; whether its user may
//! do what he asks was decided there. Of others [`access`] finds out who they are and what they may.

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

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The listener and the certificates to serve with.
pub struct Serving {
    pub listener: TcpListener,
    /// Whoever renews it replaces it there.
    pub identity: Arc<pki::Rotating>,
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

fn tls(identity: Arc<pki::Rotating>, authority_pem: &str) -> Result<TlsAcceptor, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(|e| fail(&e))?;
    roots.add(ca).map_err(|e| fail(&e))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated();
    let verifier = verifier.build().map_err(|e| fail(&e))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What the kubelet's API tells of.
pub struct Server {
    /// The node's name.
    pub node_name: String,
    /// A client of the API, which is asked for the rights of those who come.
    pub client: Client,
    /// The pods of this node.
    pub pods: Arc<PodManager>,
    /// Runs their containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What they use.
    pub stats: Arc<StatsProvider>,
    /// Changes of the logs that somebody follows.
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
    let guests = Guests::default();
    loop {
        let (stream, address) = match serving.listener.accept().await {
            Ok((stream, address)) => (stream, address.ip().to_canonical()),
            Err(error) => {
                // Out of file descriptors, most likely: those who are served go on meanwhile.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = guests.place(address);
        let gives_way = place.gives_way.clone();
        let served = connection(server.clone(), access.clone(), acceptor.clone(), stream, place);
        tasks::spawn("kubelet-connection", async move {
            // Not told why: there would be no end of telling.
            let _ = gives_way.run_until_cancelled(served).await;
        });
    }
}

/// A client that takes longer than this to say hello is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes longer than this for the head of its next request is.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections an address may have that didn't show a certificate, or not yet.
const MAX_ANONYMOUS_CONNECTIONS: usize = 100;

/// The connections of those who didn't show who they are, by address, the oldest first. A client with a certificate of the cluster is none of
/// them once it has shown it: the API server alone may come with hundreds of streams. Where there is no place left the oldest goes, not who
/// comes: pods come with the address of their node where that is another one, and so would keep out the API server of that machine.
#[derive(Debug, Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, VecDeque<Seat>>>>);

/// A guest's place: whose it is, and how he is told to go.
type Seat = (u64, CancellationToken);

impl Guests {
    fn place(&self, address: IpAddr) -> Place {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (number, gives_way) = (NEXT.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut all = self.0.lock();
        let present = all.entry(address).or_default();
        if present.len() >= MAX_ANONYMOUS_CONNECTIONS
            && let Some((_, oldest)) = present.pop_front()
        {
            oldest.cancel();
        }
        present.push_back((number, gives_way.clone()));
        Place { guests: self.clone(), address, number, gives_way }
    }
}

/// Kept by a guest until he goes or has shown who he is.
struct Place {
    guests: Guests,
    address: IpAddr,
    number: u64,
    /// Cancelled when the place is given to another.
    gives_way: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.guests.0.lock();
        let Some(present) = all.get_mut(&self.address) else { return };
        present.retain(|(number, _)| *number != self.number);
        if present.is_empty() {
            all.remove(&self.address);
        }
    }
}

/// A client that has said hello in time.
async fn greeted<S>(acceptor: &TlsAcceptor, stream: S) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.ok()?.ok()
}

async fn connection(server: Arc<Server>, access: Arc<Access>, acceptor: TlsAcceptor, stream: TcpStream, place: Place) {
    let _ = stream.set_nodelay(true);
    network::liveness::watch_peer(&stream);
    let Some(stream) = greeted(&acceptor, stream).await else { return };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let facts = leaf.and_then(|l| pki::certificate_names(l).ok());
    let user = facts.map(|facts| User { name: facts.common_name, groups: facts.organizations });
    let _place = Some(place).filter(|_| user.is_none());
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
        ["metrics", "resource"] => text(StatusCode::OK, metrics::of_summary(&server.stats.summary().await, false)),
        ["metrics", "cadvisor"] => text(StatusCode::OK, metrics::of_summary(&server.stats.summary().await, true)),
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
        let acceptor = tls(pki::Rotating::new(identity, "").unwrap(), &authority_pem).unwrap();
        let (begun, (_silent, stream)) = (tokio::time::Instant::now(), tokio::io::duplex(1 << 10));
        assert!(greeted(&acceptor, stream).await.is_none());
        assert_eq!(begun.elapsed(), HANDSHAKE_TIMEOUT);
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let guests = Guests::default();
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mut places: Vec<Place> = (0..MAX_ANONYMOUS_CONNECTIONS).map(|_| guests.place(one)).collect();
        let elsewhere = guests.place(other);
        let goes = |place: &Place| place.gives_way.is_cancelled();
        assert!(!places.iter().any(goes));
        // Who comes is let in, and the one who has been there longest goes.
        let newcomer = guests.place(one);
        assert!(!goes(&newcomer) && goes(&places[0]) && !goes(&places[1]) && !goes(&elsewhere));
        // Who has gone, or has shown who he is, has left his place to others, and is told nothing any more.
        drop(places.remove(0));
        let known = places.remove(0).gives_way.clone();
        let more = guests.place(one);
        assert!(!known.is_cancelled() && !places.iter().any(goes));
        drop((places, newcomer, elsewhere, more));
        assert!(guests.0.lock().is_empty());
    }
}
