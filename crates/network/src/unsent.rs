//! `TCP_NOTSENT_LOWAT`: how much the kernel takes of a writer before the peer has room for it. Without it, that is up to 4 MB for each connection
//! whose peer doesn't read (`net.ipv4.tcp_wmem`, tcp(7)), which the memory cgroup of the writer pays for.

use std::os::fd::{AsFd, AsRawFd as _};

/// Bytes that may wait in the kernel for a window of the peer.
const MAX: libc::c_int = 256 << 10;

/// Limits what waits unsent in a TCP connection. Other sockets are left as they are.
#[allow(unsafe_code)]
pub fn limit(socket: &impl AsFd) {
    let descriptor = socket.as_fd().as_raw_fd();
    let value: *const libc::c_int = &MAX;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and `value` points to an integer of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            value.cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "failed to limit what waits unsent in a connection");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// How much a connection takes whose peer reads nothing.
    fn taken(prepare: impl Fn(&TcpStream)) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        prepare(&stream);
        stream.set_nonblocking(true).unwrap();
        let mut taken = 0;
        loop {
            match stream.write(&[b'x'; 16 << 10]) {
                Ok(n) => taken += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_kernel_takes_little_for_a_peer_that_reads_nothing() {
        let (limited, unlimited) = (taken(limit), taken(|_| ()));
        assert!(limited + (1 << 20) < unlimited, "{limited} and {unlimited}");
    }
}
