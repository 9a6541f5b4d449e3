//! Connections from clients: TLS, and the choice between HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http1::{Body, BufferedStream, inbound};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use crate::downstream::Downstream;
use crate::reverse_proxy::ReverseProxy;

/// Timeout of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves a client's connection: HTTP, or HTTPS with `tls`.
pub async fn serve_connection(
    stream: TcpStream,
    from: SocketAddr,
    port: u16,
    tls: Option<Arc<ServerConfig>>,
    proxy: ReverseProxy,
) {
    let downstream = Downstream::new(from, port, tls.is_some());
    let (stream, by_http2) = match tls {
        None => {
            let mut stream = BufferedStream::new(Either::Left(stream));
            let Ok(by_http2) = inbound::speaks_http2(&mut stream).await else { return };
            (stream, by_http2)
        }
        Some(tls) => {
            let hello = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream));
            let Ok(Ok(stream)) = hello.await else { return };
            let by_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (BufferedStream::new(Either::Right(stream.into())), by_http2)
        }
    };
    if by_http2 {
        http2_connection(stream, proxy, downstream).await;
    } else {
        let (proxy, downstream) = (&proxy, &downstream);
        inbound::serve(stream, |request| proxy.handle(request, downstream)).await;
    }
}

/// Accepts a connection; none if that failed.
pub async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, from)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, from))
        }
        Err(error) => {
            // Out of file descriptors, most likely (accept(2), EMFILE); open connections go on meanwhile.
            tracing::warn!(%error, "failed to accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn http2_connection(stream: BufferedStream, proxy: ReverseProxy, downstream: Downstream) {
    let shared = Arc::new((proxy, downstream));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.0.handle(request.map(Body::Stream), &shared.1).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(200).keep_alive_interval(Some(HANDSHAKE_TIMEOUT));
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
