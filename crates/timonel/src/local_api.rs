//! The way from this machine's node part to the API of its own control plane: a Unix socket in the run folder, which only
//! root may enter. It carries HTTP/2, so that all requests and watches share one connection.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http::uri::{PathAndQuery, Uri};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use tokio::net::{UnixListener, UnixStream};

pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("api.sock")
}

/// Listens on the socket, in the place of one that an earlier process left.
///
/// # Errors
/// Those of the file system.
pub fn listen(run_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = path(run_dir);
    std::fs::create_dir_all(run_dir)
        .and_then(|()| std::fs::set_permissions(run_dir, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("can't make {}", run_dir.display()))?;
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| format!("can't listen on {}", path.display()))
}

/// A client of the API behind the socket. It connects when it is used, and again when the connection has ended.
pub fn client(run_dir: &Path) -> Client {
    let path = path(run_dir);
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    });
    let http = HttpClient::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(4 << 20)
        .build::<_, kube::client::Body>(connect);
    let absolute = tower::ServiceBuilder::new().map_request(with_authority).service(http);
    Client::new(absolute, "default")
}

/// Requests of kube's client have a path alone; HTTP/2 wants a scheme and an authority, too.
fn with_authority<B>(mut request: http::Request<B>) -> http::Request<B> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path).build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    request
}
