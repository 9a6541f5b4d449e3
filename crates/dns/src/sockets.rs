//! The server's sockets. They may be inherited from the previous process; queries that arrive in between wait in their buffers.

use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::PORT;

/// The UDP socket and TCP listener. Clones share them.
#[derive(Debug, Clone)]
pub struct Sockets {
    pub(crate) udp: Arc<tokio::net::UdpSocket>,
    pub(crate) tcp: Arc<tokio::net::TcpListener>,
}

/// Why the sockets can't be bound.
#[derive(Debug, thiserror::Error)]
#[error("can't answer DNS on {address}:53: {source}")]
pub struct BindError {
    address: IpAddr,
    source: io::Error,
}

impl Sockets {
    /// Binds them to an address of this machine.
    ///
    /// # Errors
    /// When another program has the port, or the machine hasn't that address.
    pub fn bind(address: IpAddr) -> Result<Self, BindError> {
        let bound = UdpSocket::bind((address, PORT)).and_then(|udp| Ok((udp, TcpListener::bind((address, PORT))?)));
        bound.and_then(|(udp, tcp)| Self::new(udp, tcp)).map_err(|source| BindError { address, source })
    }

    /// Takes over inherited sockets of UDP and TCP, if they are bound to this address.
    pub fn from_fds(address: IpAddr, udp: OwnedFd, tcp: OwnedFd) -> Option<Self> {
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        let wanted = (address, PORT).into();
        let are_ours = udp.local_addr().ok()? == wanted && tcp.local_addr().ok()? == wanted;
        if are_ours { Self::new(udp, tcp).ok() } else { None }
    }

    fn new(udp: UdpSocket, tcp: TcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp, tcp) = (tokio::net::UdpSocket::from_std(udp)?, tokio::net::TcpListener::from_std(tcp)?);
        Ok(Sockets { udp: Arc::new(udp), tcp: Arc::new(tcp) })
    }

    /// The UDP socket.
    pub fn udp(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }

    /// The TCP listener.
    pub fn tcp(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}
