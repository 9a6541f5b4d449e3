//! Connections that notice that their peer is gone, also when it vanished without a word: a machine that lost its power, a network that
//! drops what it should carry. Without this a reader who waits for such a peer waits for ever, and a writer for a quarter of an hour.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How long a connection may be idle before the peer's kernel is asked whether it is there (RFC 9293, 3.8.4).
pub const IDLE: Duration = Duration::from_secs(15);
/// Between two such questions.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// How long what is sent, a question too, may go without an acknowledgement (RFC 5482) before the connection is given up.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Questions without an answer that would be as many.
pub const QUESTIONS: u32 = 3;

/// Lets the kernel end a TCP connection whose peer is gone: [`IDLE`] and [`SILENCE`] after it at the latest. A socket that has no
/// such options is left as it is.
pub fn watch_peer(socket: &impl AsFd) {
    let set = || -> nix::Result<()> {
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &(IDLE.as_secs() as u32))?;
        setsockopt(socket, sockopt::TcpKeepInterval, &(INTERVAL.as_secs() as u32))?;
        setsockopt(socket, sockopt::TcpKeepCount, &QUESTIONS)?;
        setsockopt(socket, sockopt::TcpUserTimeout, &(SILENCE.as_millis() as u32))
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "failed to enable keepalive on a connection");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn the_kernel_gives_a_silent_peer_up_within_45_seconds() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        watch_peer(&stream);
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        let idle = getsockopt(&stream, sockopt::TcpKeepIdle).unwrap();
        let silence = getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
        assert!(idle > 0 && silence > 0 && idle + silence / 1000 <= 45, "{idle} s and {silence} ms");
    }
}
