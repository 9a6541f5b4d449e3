//! Questions about the rest of the world, handed on as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the upstreams in turn; the first answer counts.
pub async fn ask(upstreams: &[SocketAddr], question: &[u8]) -> Option<Vec<u8>> {
    for upstream in upstreams {
        if let Ok(Some(answer)) = tokio::time::timeout(TIMEOUT, one(*upstream, question)).await {
            return Some(answer);
        }
    }
    None
}

async fn one(upstream: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let any: IpAddr = if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A new socket for every question has a new port, which makes answers hard to forge.
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(upstream).await.ok()?;
    socket.send(question).await.ok()?;
    let mut buffer = vec![0u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        if length >= 2 && question.len() >= 2 && buffer[..2] == question[..2] {
            buffer.truncate(length);
            return Some(buffer);
        }
    }
}
