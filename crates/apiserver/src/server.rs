//! HTTPS: TLS with optional client certificates, HTTP/1.1 (with upgrades) and HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::response;
use crate::{ApiServer, Peer};

/// A client that takes longer than this to say hello is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("can't use the server's certificate: {0}")]
pub struct TlsError(String);

fn tls_config(server: &ApiServer, identity: &pki::Identity) -> Result<rustls::ServerConfig, TlsError> {
    let fail = |e: &dyn std::fmt::Display| TlsError(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca_pem = server.config.authority.certificate_pem();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| fail(&e))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).map_err(|e| fail(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| fail(&e))?;
    let certificates = vec![
        CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).map_err(|e| fail(&e))?,
        CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| fail(&e))?,
    ];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| fail(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(|e| fail(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves the API on `listener` until `stop` is cancelled. Open connections end with the process.
///
/// # Errors
/// When the certificate or its key is unusable.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    identity: pki::Identity,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls_config(&server, &identity)?));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: those who are served go on meanwhile.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return Ok(()),
        };
        let (server, acceptor, stop) = (server.clone(), acceptor.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(server, acceptor, stream) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn connection(server: Arc<ApiServer>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let address = stream.peer_addr().map(|a| a.ip()).ok();
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let facts = stream.get_ref().1.peer_certificates().and_then(|chain| {
        let leaf = chain.first()?;
        pki::certificate_names(leaf).ok().map(Arc::new)
    });
    let peer = Peer::Remote(facts);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        if let Some(address) = address {
            request.extensions_mut().insert(address);
        }
        async move { Ok::<_, Infallible>(server.handle(request.map(response::boxed), peer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Duration::from_secs(30))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}
