//! Queries by UDP and TCP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::Server;
use crate::answer::{LocalAnswer, forward, local};
use crate::concurrency::ConcurrencyLimiter;
use crate::metrics::QueryMetrics;

/// Largest UDP response without EDNS (RFC 1035), and with EDNS (RFC 6891; the DNS flag day 2020 recommends this size).
const MAX_UDP_BYTES: usize = 512;
const MAX_EDNS_UDP_BYTES: usize = 1232;
/// Limits of TCP connections.
const MAX_CONNECTIONS_PER_CLIENT: usize = 64;
const MAX_CONNECTIONS: usize = 1024;
/// Idle timeout of a TCP connection (RFC 7766, section 6.2.3), and timeout of reading or writing one message.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a query: one name, and perhaps options.
const MAX_QUERY_BYTES: usize = 4096;
/// Delay after a failed accept.
const ACCEPT_RETRY_PERIOD: Duration = Duration::from_millis(100);

pub(crate) async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
            continue;
        };
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let limit = udp_limit(&question);
        let metrics = QueryMetrics::new(&question, peer.ip(), "udp");
        match local(&server, &question, peer.ip()) {
            LocalAnswer::Complete(answer) => {
                metrics.answered(&answer);
                let _ = socket.send_to(&server.packet(answer, limit), peer).await;
            }
            LocalAnswer::Partial(part, rest) => {
                let (server, socket) = (server.clone(), socket.clone());
                tasks::spawn("dns-question", async move {
                    let answer = forward(&server, peer.ip(), part, rest).await;
                    metrics.answered(&answer);
                    let _ = socket.send_to(&server.packet(answer, limit), peer).await;
                });
            }
        }
    }
}

/// How large an answer may be: as large as the client says that it takes (RFC 6891), within bounds.
pub(crate) fn udp_limit(question: &Message) -> usize {
    let taken = question.edns.as_ref().map_or(MAX_UDP_BYTES, |edns| usize::from(edns.max_payload()));
    taken.clamp(MAX_UDP_BYTES, MAX_EDNS_UDP_BYTES)
}

pub(crate) async fn serve_tcp(server: Arc<Server>, listener: Arc<TcpListener>) {
    let places = ConcurrencyLimiter::new(MAX_CONNECTIONS_PER_CLIENT, MAX_CONNECTIONS);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors (EMFILE) the next accept would fail at once, too.
                tracing::warn!(%error, "failed to accept a TCP connection to the cluster DNS");
                tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
                continue;
            }
        };
        // Above the limit the connection is closed.
        let Some(place) = places.try_acquire(peer.ip()) else { continue };
        let server = server.clone();
        tasks::spawn("dns-connection", async move {
            let _ = tcp_connection(server, stream, peer.ip()).await;
            drop(place);
        });
    }
}

/// Runs I/O with a timeout.
async fn with_timeout<T>(limit: Duration, work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

pub(crate) async fn tcp_connection(server: Arc<Server>, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
    loop {
        let length = usize::from(with_timeout(IDLE_TIMEOUT, stream.read_u16()).await?);
        if length > MAX_QUERY_BYTES {
            return Ok(());
        }
        let mut packet = vec![0u8; length];
        with_timeout(MESSAGE_TIMEOUT, stream.read_exact(&mut packet)).await?;
        let Ok(question) = Message::from_vec(&packet) else { return Ok(()) };
        let metrics = QueryMetrics::new(&question, peer, "tcp");
        let answer = match local(&server, &question, peer) {
            LocalAnswer::Complete(answer) => answer,
            LocalAnswer::Partial(part, rest) => forward(&server, peer, part, rest).await,
        };
        metrics.answered(&answer);
        let answer = server.packet(answer, usize::from(u16::MAX));
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        with_timeout(MESSAGE_TIMEOUT, stream.write_all(&framed)).await?;
    }
}
