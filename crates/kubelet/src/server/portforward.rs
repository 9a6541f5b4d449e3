//! Port-forward: SPDY streams, either after an `Upgrade: SPDY/3.1` or inside a WebSocket (KEP-4006), each pair of
//! streams (data and error) joined to a connection into the pod's network.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::channels::{Socket, upgrade_spdy, upgrade_websocket};
use super::spdy::{self, Stream, StreamOutput};
use super::{Body, refused};
use crate::manager::Manager;

const TUNNEL: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
const PROTOCOL: &str = "portforward.k8s.io";

pub async fn serve(manager: &Arc<Manager>, namespace: &str, pod: &str, request: Request<Incoming>) -> Response<Body> {
    let Some((_, places, saved)) = manager.find(namespace, pod) else {
        return refused(StatusCode::NOT_FOUND, format!("pod {pod:?} isn't on this node"));
    };
    let Some(sandbox) = saved.sandbox else {
        return refused(StatusCode::BAD_REQUEST, format!("pod {pod:?} isn't running"));
    };
    let network = match sandbox.host_network {
        true => None,
        false => match manager.agent.engine.network(&places, &sandbox).await {
            Ok(network) => Some(network),
            Err(error) => return refused(StatusCode::BAD_REQUEST, format!("pod {pod:?} isn't running: {error}")),
        },
    };
    let forward = Forward { network, errors: Arc::default() };
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if upgrade.eq_ignore_ascii_case("spdy/3.1") {
        return upgrade_spdy(request, PROTOCOL, move |io| async move {
            let (read, write) = tokio::io::split(io);
            finish(spdy::serve(read, write, |stream| forward.accept(stream)).await);
        });
    }
    upgrade_websocket(request, TUNNEL, move |socket| async move {
        let (read, write) = tunnel(socket);
        finish(spdy::serve(read, write, |stream| forward.accept(stream)).await);
    })
}

fn finish(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a port-forward ended");
    }
}

/// Pairs the streams of a request and joins them to the pod.
struct Forward {
    /// The pod's network namespace; none for the host's.
    network: Option<std::path::PathBuf>,
    /// Error streams that wait for their data stream, by request.
    errors: Arc<Mutex<HashMap<String, StreamOutput>>>,
}

impl Forward {
    fn accept(&self, stream: Stream) {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let request = header("requestid");
        if header("streamtype") == "error" {
            self.errors.lock().insert(request, stream.output);
            return;
        }
        let error = self.errors.lock().remove(&request);
        let (network, port) = (self.network.clone(), header("port"));
        tokio::spawn(async move {
            if let Err(reason) = join(network, &port, stream).await
                && let Some(error) = &error
            {
                let _ = error.send(format!("error forwarding port {port} to pod: {reason}").as_bytes()).await;
            }
            if let Some(error) = error {
                error.end().await;
            }
        });
    }
}

async fn join(network: Option<std::path::PathBuf>, port: &str, mut stream: Stream) -> io::Result<()> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let connect = move || std::net::TcpStream::connect(("127.0.0.1", port));
    let connected = match network {
        Some(path) => tokio::task::spawn_blocking(move || runtime::namespaces::inside(&path, connect))
            .await
            .map_err(io::Error::other)??,
        None => tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)?,
    }?;
    connected.set_nonblocking(true)?;
    let (mut read, mut write) = TcpStream::from_std(connected)?.into_split();
    let output = stream.output.clone();
    let down = async move {
        let mut buffer = vec![0u8; 32 << 10];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => output.send(&buffer[..n]).await?,
            }
        }
        output.end().await;
        Ok::<_, io::Error>(())
    };
    let up = async move {
        while let Some(data) = stream.input.recv().await {
            write.write_all(&data).await?;
        }
        write.shutdown().await
    };
    tokio::try_join!(down, up).map(|_| ())
}

/// A WebSocket as a pair of byte streams.
fn tunnel(socket: Socket) -> (impl AsyncRead + Unpin, impl AsyncWrite + Send + Unpin + 'static) {
    let (mut sink, source) = socket.split();
    let bytes = source.filter_map(|message| async move {
        match message {
            Ok(Message::Binary(data)) => Some(Ok::<Bytes, io::Error>(data)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        }
    });
    let read = tokio_util::io::StreamReader::new(Box::pin(bytes));
    let (write, mut outgoing) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let mut buffer = vec![0u8; 32 << 10];
        while let Ok(n @ 1..) = outgoing.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    (read, write)
}
