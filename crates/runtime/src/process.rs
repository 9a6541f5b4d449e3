//! Processes that are no children of ours.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A hold on a process, which keeps its meaning when the process' number has become another's (pidfd_open(2)).
pub struct Handle(OwnedFd);

impl From<OwnedFd> for Handle {
    fn from(descriptor: OwnedFd) -> Self {
        Handle(descriptor)
    }
}

impl Handle {
    /// # Errors
    /// When there is no such process.
    pub fn find(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process has this number"))?;
        Ok(Handle(pidfd_open(pid, PidfdFlags::NONBLOCK)?))
    }

    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send(&self.0, signal)
    }
}

#[allow(unsafe_code)]
fn send(process: &OwnedFd, signal: i32) -> io::Result<()> {
    let fd = process.as_raw_fd();
    // SAFETY: the descriptor is open, and the call reads no memory of ours, as it gets no information to send.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A process that can be waited for (pidfd_open(2)). Its number may be somebody else's by the time this is made; who needs to be sure
/// looks once more after that.
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// # Errors
    /// When there is no such process.
    pub fn find(pid: i32) -> io::Result<Self> {
        let Handle(descriptor) = Handle::find(pid)?;
        // SAFETY: an OwnedFd stays the same open descriptor as long as it lives, and AsyncFd owns it.
        #[allow(unsafe_code)]
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
        Ok(Process(descriptor))
    }

    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send(self.0.get_ref(), signal)
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // An error would be the reactor's end, with which nothing is waited for any more.
        let _ = self.0.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_are_heard_of() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process::find(child.id() as i32).unwrap();
        let waiting = tokio::spawn(async move { process.ended().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(child.stdin.take());
        waiting.await.unwrap();
        child.wait().unwrap();
        assert!(Process::find(child.id() as i32).is_err());
    }
}
