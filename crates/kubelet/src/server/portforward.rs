//! Port-forward: SPDY streams, either after an `Upgrade: SPDY/3.1` or inside a WebSocket (KEP-4006), each pair of
//! streams (data and error) joined to a connection into the pod's network.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::channels::{Socket, upgrade_spdy, upgrade_websocket};
use super::{Body, Server, legacy_forward, query, refused};
use crate::streaming::spdy::{self, Stream, StreamOutput};

const TUNNEL: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
const PROTOCOL: &str = "portforward.k8s.io";

/// Forwards ports of a pod.
pub async fn serve(server: &Arc<Server>, namespace: &str, pod: &str, request: Request<Incoming>) -> Response<Body> {
    let Some((_, dirs, saved)) = server.pods.find(namespace, pod) else {
        return refused(StatusCode::NOT_FOUND, format!("pod {pod:?} isn't on this node"));
    };
    let Some(sandbox) = saved.sandbox else {
        return refused(StatusCode::BAD_REQUEST, format!("pod {pod:?} isn't running"));
    };
    let network = match sandbox.host_network {
        true => None,
        false => match server.runtime.network_namespace(&dirs, &sandbox).await {
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
    // A client that names ports wants channels; the others put SPDY into the WebSocket.
    let query = query(&request);
    if !query.iter().any(|(key, _)| key == "ports") {
        return upgrade_websocket(request, TUNNEL, move |socket, _| async move {
            let (read, write) = tunnel(socket);
            finish(spdy::serve(read, write, |stream| forward.accept(stream)).await);
        });
    }
    match legacy_forward::ports(&query) {
        Ok(ports) => upgrade_websocket(request, &legacy_forward::PROTOCOLS, move |socket, protocol| async move {
            legacy_forward::serve(socket, protocol, forward.network, ports).await;
        }),
        Err(error) => refused(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn finish(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a port-forward ended with an error");
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
            // Bounded by the session's streams, of which each is one.
            self.errors.lock().insert(request, stream.output);
            return;
        }
        let error = self.errors.lock().remove(&request);
        let (network, port) = (self.network.clone(), header("port"));
        tasks::spawn("port-forward", async move {
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

/// How long a connection to a port of a pod may take to be made: a server there may never accept one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port of the pod's loopback, of either family. The socket is of the pod's network for good once it is made there, and nobody
/// waits for it on a thread.
///
/// # Errors
/// Nothing listens at that port, the network namespace is gone, or ten seconds are over.
pub async fn connect(network: Option<std::path::PathBuf>, port: u16) -> io::Result<TcpStream> {
    let mut refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let make = move || nix::sys::socket::socket(family, SockType::Stream, flags, None);
        let made = match network.clone() {
            Some(path) => tokio::task::spawn_blocking(move || runtime::namespaces::inside(&path, make))
                .await
                .map_err(io::Error::other)??,
            None => make(),
        };
        // A pod's network may have one family alone.
        let connecting = match made {
            Ok(socket) => TcpSocket::from_std_stream(socket.into()).connect((address, port).into()),
            Err(error) => {
                refused = error.into();
                continue;
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => refused = error,
            Err(_) => refused = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(refused)
}

async fn join(network: Option<std::path::PathBuf>, port: &str, mut stream: Stream) -> io::Result<()> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let connected = connect(network, port).await?;
    let (mut read, mut write) = connected.into_split();
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
    tasks::spawn("port-forward", async move {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_are_connected_to_without_a_thread_that_waits() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut ours = connect(None, port).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        ours.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        drop((listener, theirs, ours));
        assert!(connect(None, port).await.is_err());
    }
}
