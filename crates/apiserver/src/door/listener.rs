//! HTTPS: TLS with optional client certificates, HTTP/1.1 (with upgrades) and HTTP/2.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authentication::NODES;
use crate::response;
use crate::unsent::Connection;
use crate::{ApiServer, Peer, User};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of HTTP/2 pings, and how long the client has to answer one.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How many requests, watches among them, a client may have open over one connection of HTTP/2.
const STREAMS: u32 = 1000;
/// A node has one connection for all that it does, and watches each object that its pods' volumes show and each certificate that it serves. Its
/// lease must have a place beside these, however many they are (they are bounded there).
const STREAMS_OF_NODES: u32 = 20_000;

type Verifier = Arc<dyn ClientCertVerifier>;

/// The certificate of the server can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't use the server's certificate: {0}")]
pub struct TlsError(String);

fn tls_config(
    server: &ApiServer,
    identity: Arc<pki::RotatingCertificate>,
) -> Result<(rustls::ServerConfig, Verifier), TlsError> {
    let fail = |e: &dyn std::fmt::Display| TlsError(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca_pem = server.config.authority.certificate_pem();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| fail(&e))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).map_err(|e| fail(&e))?;
    let known = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| fail(&e))?;
    let verifier = Arc::new(AnyClient { known: known.clone() });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, known))
}

/// Accepts any client certificate whose key the client holds: one of an unknown authority is answered by a Status 401, as
/// upstream does, rather than by a broken connection.
#[derive(Debug)]
struct AnyClient {
    known: Verifier,
}

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        true
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.known.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls12_signature(message, certificate, signature)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls13_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}

/// The peer that a client's certificate chain makes it.
fn peer(known: &dyn ClientCertVerifier, chain: Option<&[CertificateDer<'_>]>) -> Peer {
    let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else { return Peer::Remote(None) };
    let verified = known.verify_client_cert(leaf, rest, UnixTime::now());
    match verified.map_err(|e| e.to_string()).and_then(|_| pki::parse_certificate_der(leaf).map_err(|e| e.to_string()))
    {
        Ok(facts) => Peer::Remote(Some(Arc::new(facts))),
        Err(why) => {
            tracing::debug!(why, "rejected a client certificate");
            Peer::Unknown
        }
    }
}

/// Serves the API on `listener`, with the certificate that `identity` has at the moment, until `stop` is cancelled. Open connections end with the process.
///
/// # Errors
/// When the certificate or its key is unusable.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    identity: Arc<pki::RotatingCertificate>,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let (config, known) = tls_config(&server, identity)?;
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), Arc::new(listener));
    let serving = tasks::until_done("api-listener", move || {
        let (server, acceptor, known, listener) = (server.clone(), acceptor.clone(), known.clone(), listener.clone());
        let serve = move |stream| connection(server.clone(), acceptor.clone(), known.clone(), stream);
        accept_all(move || accept(listener.clone()), serve, stop.clone())
    });
    // It ends when `stop` is cancelled, or with its runtime; after a panic it is started again.
    let _ = serving.await;
    Ok(())
}

/// Serves the API on a Unix socket to another process of this machine, which acts as `user`: the permissions of
/// the socket decide which processes may. Ends when `stop` is cancelled.
pub async fn serve_local(server: Arc<ApiServer>, listener: UnixListener, user: User, stop: CancellationToken) {
    let (peer, listener) = (Peer::Component(Arc::new(user)), Arc::new(listener));
    let serving = tasks::until_done("local-api-listener", move || {
        let (server, peer, listener) = (server.clone(), peer.clone(), listener.clone());
        let serve = move |stream| local_connection(server.clone(), peer.clone(), stream);
        accept_all(move || accept_local(listener.clone()), serve, stop.clone())
    });
    let _ = serving.await;
}

async fn accept(listener: Arc<TcpListener>) -> io::Result<TcpStream> {
    listener.accept().await.map(|(stream, _)| stream)
}

async fn accept_local(listener: Arc<UnixListener>) -> io::Result<UnixStream> {
    listener.accept().await.map(|(stream, _)| stream)
}

/// Takes connections until `stop` is cancelled, which ends them, too. A panic ends the one connection in which it happens.
async fn accept_all<S, A, C>(accept: impl Fn() -> A, serve: impl Fn(S) -> C, stop: CancellationToken)
where
    A: Future<Output = io::Result<S>>,
    C: Future<Output = ()> + Send + 'static,
{
    loop {
        let stream = tokio::select! {
            accepted = accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: open connections go on meanwhile.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let (serving, stop) = (serve(stream), stop.clone());
        tasks::spawn("api-connection", async move {
            tokio::select! {
                () = serving => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn local_connection(server: Arc<ApiServer>, peer: Peer, stream: UnixStream) {
    let end = CancellationToken::new();
    let connection = Connection(end.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        request.extensions_mut().insert(connection.clone());
        async move { Ok::<_, Infallible>(server.handle(request.map(response::boxed), peer).await) }
    });
    let served = builder(STREAMS_OF_NODES);
    let serving: BoxFuture<'static, _> =
        Box::pin(async move { served.serve_connection_with_upgrades(TokioIo::new(stream), service).await });
    if let Some(Err(error)) = end.run_until_cancelled(serving).await {
        tracing::debug!(%error, "a connection on the local socket ended with an error");
    }
}

async fn connection(server: Arc<ApiServer>, acceptor: TlsAcceptor, known: Verifier, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    network::keepalive::enable(&stream);
    network::unsent::limit(&stream);
    let address = stream.peer_addr().map(|a| a.ip().to_canonical()).ok();
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let peer = peer(known.as_ref(), stream.get_ref().1.peer_certificates());
    let is_node = matches!(&peer, Peer::Remote(Some(facts)) if facts.organizations.iter().any(|of| of == NODES));
    let end = CancellationToken::new();
    let connection = Connection(end.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        request.extensions_mut().insert(connection.clone());
        if let Some(address) = address {
            request.extensions_mut().insert(address);
        }
        async move { Ok::<_, Infallible>(server.handle(request.map(response::boxed), peer).await) }
    });
    let served = builder(if is_node { STREAMS_OF_NODES } else { STREAMS });
    let serving: BoxFuture<'static, _> =
        Box::pin(async move { served.serve_connection_with_upgrades(TokioIo::new(stream), service).await });
    if let Some(Err(error)) = end.run_until_cancelled(serving).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// HTTP/1.1 and 2 with the limits that all connections have.
fn builder(streams: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    builder
}
