//! Services of the kubelet that programs of the node call by gRPC on a socket.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tonic::codegen::Service;

/// The most connections that one service has at a time.
const MAX_CONNECTIONS: usize = 64;

/// Serves a gRPC service on a socket that is made anew; only root may connect. Returns why the socket can't be served.
pub async fn serve<S, F>(socket: &Path, service: S) -> io::Error
where
    S: Service<http::Request<Incoming>, Response = http::Response<tonic::body::Body>, Error = Infallible, Future = F>
        + Clone
        + Send
        + 'static,
    F: Future<Output = Result<S::Response, S::Error>> + Send + 'static,
{
    match listen(socket, service).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn listen<S, F>(socket: &Path, service: S) -> io::Result<Infallible>
where
    S: Service<http::Request<Incoming>, Response = http::Response<tonic::body::Body>, Error = Infallible, Future = F>
        + Clone
        + Send
        + 'static,
    F: Future<Output = Result<S::Response, S::Error>> + Send + 'static,
{
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o750))?;
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return Err(io::Error::other("no connections are taken"));
        };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, socket = %socket.display(), "failed to accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(service.clone());
        tasks::spawn("plugin-connection", async move {
            let served =
                Builder::new(TokioExecutor::new()).http2_only().serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "the connection of a program of the node ended");
            }
            drop(place);
        });
    }
}
