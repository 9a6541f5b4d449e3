//! TCP keepalive and user timeout: connections end when their peer vanishes without a FIN or RST, as when its machine loses power or the
//! network drops packets. Without them a reader waits for ever, and a writer for a quarter of an hour.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Idle time before the first keepalive probe (`TCP_KEEPIDLE`, tcp(7); RFC 9293, section 3.8.4).
pub const IDLE: Duration = Duration::from_secs(15);
/// Interval of keepalive probes (`TCP_KEEPINTVL`).
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Time without an acknowledgement after which the connection is closed (`TCP_USER_TIMEOUT`, RFC 5482).
pub const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Unanswered keepalive probes in that time (`TCP_KEEPCNT`).
pub const PROBES: u32 = 3;

/// Enables keepalive and the user timeout on a TCP connection: the kernel closes it at most [`IDLE`] plus [`USER_TIMEOUT`] after its peer has
/// vanished. Other sockets are left as they are.
pub fn enable(socket: &impl AsFd) {
    let set = || -> nix::Result<()> {
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &(IDLE.as_secs() as u32))?;
        setsockopt(socket, sockopt::TcpKeepInterval, &(INTERVAL.as_secs() as u32))?;
        setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
        setsockopt(socket, sockopt::TcpUserTimeout, &(USER_TIMEOUT.as_millis() as u32))
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
        enable(&stream);
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        let idle = getsockopt(&stream, sockopt::TcpKeepIdle).unwrap();
        let silence = getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
        assert!(idle > 0 && silence > 0 && idle + silence / 1000 <= 45, "{idle} s and {silence} ms");
    }
}
