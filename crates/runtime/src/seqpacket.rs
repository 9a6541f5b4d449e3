//! Packets with file descriptors over Unix sockets (`SOCK_SEQPACKET`, unix(7)).
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, recv, recvmsg, sendmsg, setsockopt, socket, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest message. A longer one is refused when it is sent and when it comes; nothing is cut off.
const MAX_PACKET_BYTES: usize = 1 << 20;
/// What a socket takes by itself is some 200 KiB (`net.core.wmem_default`).
const INITIAL_BUFFER_BYTES: usize = 64 << 10;
const MOST_FDS: usize = 8;

fn new_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)?)
}

/// Socket paths are short (108 bytes), folders may be deep: bind and connect through `/proc/self/fd`.
fn short_address(path: &Path) -> io::Result<(UnixAddr, OwnedFd)> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder: OwnedFd = std::fs::File::open(folder)?.into();
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((UnixAddr::new(&short)?, folder))
}

/// Two ends of a connection; neither waits for anything.
///
/// # Errors
/// When there is no descriptor left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// A socket that listens at a path, which is for its owner alone.
///
/// # Errors
/// When the path can't be bound.
pub fn bind_and_listen(path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    // Both sides wait for it by other means.
    let listener = new_socket(SockFlag::SOCK_NONBLOCK)?;
    let (address, _folder) = short_address(path)?;
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::new(64).map_err(io::Error::from)?)?;
    Ok(listener)
}

/// Connects without waiting: a queue that is full is an error (`WouldBlock`). Neither does the connection wait for anything.
///
/// # Errors
/// When no process listens at the path, or too many connections are waiting.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let stream = new_socket(SockFlag::SOCK_NONBLOCK)?;
    let (address, _folder) = short_address(path)?;
    connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

/// The next connection, which waits for nothing.
///
/// # Errors
/// `WouldBlock` when there is none, and when there is no descriptor left.
pub fn accept_without_waiting(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether there is something to read, of which the other side's end is a case.
pub fn is_readable(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}

fn too_large(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes is larger than {MAX_PACKET_BYTES}"))
}

/// Sends a message, with file descriptors beside it.
///
/// # Errors
/// When the other end is gone.
pub fn send<T: Serialize>(socket: &OwnedFd, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_PACKET_BYTES {
        return Err(too_large(bytes.len()));
    }
    if bytes.len() > INITIAL_BUFFER_BYTES {
        // Twice, as the kernel counts its own use. Who may not force it has the machine's limit.
        let _ = setsockopt(socket, SndBufForce, &(bytes.len() * 2));
    }
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)?;
    Ok(())
}

/// The next message, or `None` when the other side is gone.
///
/// # Errors
/// `WouldBlock` when there is none, and when it is too large or isn't what was expected.
pub fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // How long the message is, without taking it.
    let length = recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
    let mut buffer = vec![0u8; length.clamp(1, MAX_PACKET_BYTES)];
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    let mut fds = Vec::new();
    let received = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                // SAFETY: the kernel just made these descriptors for us.
                fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    if length > MAX_PACKET_BYTES {
        return Err(too_large(length));
    }
    if received == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..received])?, fds)))
}

/// Receives a terminal from a console socket (runc's convention: one descriptor in one message).
///
/// # Errors
/// When the message has no descriptor.
pub fn receive_fd(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut buffer = [0u8; 256];
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control
            && let Some(fd) = received.first()
        {
            // SAFETY: the kernel just made this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::other("the console socket brought no terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = bind_and_listen(&path).unwrap();
        let ours = connect_to(&path).unwrap();
        let theirs = accept_without_waiting(&listener).unwrap();
        assert_eq!(receive::<String>(&theirs).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for length in [0, 100, 70_000, 150_000] {
            let text = "x".repeat(length);
            send(&ours, &text, &[]).unwrap();
            assert!(is_readable(&theirs));
            assert_eq!(receive::<String>(&theirs).unwrap().unwrap().0, text);
        }
        assert_eq!(send(&ours, &"x".repeat(MAX_PACKET_BYTES), &[]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // A peer that doesn't read blocks no other.
        let full = (0..10_000).find_map(|_| send(&ours, &"x".repeat(1000), &[]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        // For good, even where a process that another test forks has a copy of it for a moment.
        nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&ours), nix::sys::socket::Shutdown::Write).unwrap();
        while receive::<String>(&theirs).unwrap().is_some() {}
    }
}
