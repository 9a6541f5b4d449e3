//! Packets with file descriptors over Unix sockets (`SOCK_SEQPACKET`, unix(7)).
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, recvmsg, sendmsg, socket,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const LARGEST: usize = 64 << 10;
const MOST_FDS: usize = 8;

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Socket paths are short (108 bytes), folders may be deep: bind and connect through `/proc/self/fd`.
fn short_address(path: &Path) -> io::Result<(UnixAddr, OwnedFd)> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder: OwnedFd = std::fs::File::open(folder)?.into();
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((UnixAddr::new(&short)?, folder))
}

pub fn bind_and_listen(path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let listener = new_socket()?;
    let (address, _folder) = short_address(path)?;
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::new(64).map_err(io::Error::from)?)?;
    Ok(listener)
}

pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let stream = new_socket()?;
    let (address, _folder) = short_address(path)?;
    connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn send<T: Serialize>(socket: &OwnedFd, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The next message, or `None` when the other side is gone.
pub fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0u8; LARGEST];
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    let mut fds = Vec::new();
    let length = {
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
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, fds)))
}

/// Receives a terminal from a console socket (runc's convention: one descriptor in one message).
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
