//! Clients that are attached to a container. None of them is waited for.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::write;

use super::set_nonblocking;

/// A client that takes nothing for so long is let go. As long as it takes something, the container waits for it.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes on their way to a client, which isn't waited for.
pub struct Outgoing {
    to: OwnedFd,
    pending: Vec<u8>,
    /// When some of it was taken last.
    since: Instant,
}

impl Outgoing {
    fn new(to: OwnedFd) -> nix::Result<Self> {
        set_nonblocking(&to)?;
        Ok(Outgoing { to, pending: Vec::new(), since: Instant::now() })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes as much as the other side takes and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> nix::Result<()> {
        if self.is_idle() {
            self.since = Instant::now();
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> nix::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let rest = &self.pending[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match write(&self.to, rest) {
                Ok(n) => {
                    written += n;
                    self.since = Instant::now();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.pending.drain(..written);
        outcome
    }
}

/// A client that is connected to a container's streams.
pub struct Attached {
    pub(super) input: Option<OwnedFd>,
    pub(super) outputs: [Option<Outgoing>; 2],
    pub connection: OwnedFd,
}

impl Attached {
    pub fn new(input: Option<OwnedFd>, outputs: [Option<OwnedFd>; 2], connection: OwnedFd) -> nix::Result<Self> {
        if let Some(input) = &input {
            set_nonblocking(input)?;
        }
        let [stdout, stderr] = outputs.map(|fd| fd.map(Outgoing::new).transpose());
        Ok(Attached { input, outputs: [stdout?, stderr?], connection })
    }

    /// When the client is to be let go unless it takes something: for as long as there is something to take.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.outputs.iter().flatten().filter(|out| !out.is_idle());
        waiting.map(|out| out.since + SEND_TIMEOUT).min()
    }

    /// The outputs that wait for the client.
    pub fn waiting(&self) -> impl Iterator<Item = RawFd> {
        self.outputs.iter().flatten().filter(|out| !out.is_idle()).map(|out| out.to.as_raw_fd())
    }

    /// Writes what the client takes, and lets outputs go that it doesn't want. Whether it has all.
    pub fn flush(&mut self, now: Instant) -> bool {
        for output in &mut self.outputs {
            if let Some(out) = output
                && (out.flush().is_err() || (!out.is_idle() && out.since + SEND_TIMEOUT <= now))
            {
                *output = None;
            }
        }
        self.outputs.iter().flatten().all(Outgoing::is_idle)
    }

    pub(super) fn send(&mut self, stream: usize, bytes: &[u8]) {
        if let Some(out) = &mut self.outputs[stream]
            && out.send(bytes).is_err()
        {
            self.outputs[stream] = None;
        }
    }
}
