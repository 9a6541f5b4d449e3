//! What processes write: read to its end, however late we are.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// How long children of an ended process may still write before their output is cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// What a pipe can hold, in bytes (pipe(7), `pipe-max-size`): what is read beyond that was written after the process' end.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Our end of what a process writes to.
pub struct Output {
    reader: pipe::Receiver,
    buffer: Vec<u8>,
    /// How much more may be read of an ended process.
    left: usize,
}

impl Output {
    /// A pipe: the end for the process, and ours.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn pipe() -> io::Result<(OwnedFd, Self)> {
        let (reader, writer) = io::pipe()?;
        Ok((writer.into(), Output::new(pipe::Receiver::from_owned_fd(reader.into())?)))
    }

    /// A terminal's upper side, to be read and to be written.
    ///
    /// # Errors
    /// When it can't be made non-blocking.
    pub fn terminal(terminal: &OwnedFd) -> io::Result<(Self, pipe::Sender)> {
        let flags = OFlag::from_bits_retain(fcntl(terminal, FcntlArg::F_GETFL)?);
        fcntl(terminal, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // To tokio a terminal is as good as a pipe: it is waited for, read and written in the same way.
        let reader = pipe::Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?;
        Ok((Output::new(reader), pipe::Sender::from_owned_fd_unchecked(terminal.try_clone()?)?))
    }

    fn new(reader: pipe::Receiver) -> Self {
        Output { reader, buffer: vec![0; 32 << 10], left: MAX_OUTPUT_BYTES }
    }

    /// The next bytes; none when it has no writer any more or, once the process has `ended`, when there are none. So
    /// nothing that the process wrote is lost, not even when this process gets no time to run for long.
    pub async fn next(&mut self, ended: &CancellationToken) -> Option<&[u8]> {
        let read = tokio::select! {
            biased;
            () = ended.cancelled() => self.rest(),
            read = self.reader.read(&mut self.buffer) => read.ok(),
        };
        Some(&self.buffer[..read.filter(|n| *n > 0)?])
    }

    /// Past tokio, which knows of bytes only after it was told of them.
    fn rest(&mut self) -> Option<usize> {
        let room = self.buffer.len().min(self.left);
        loop {
            match nix::unistd::read(&self.reader, &mut self.buffer[..room]) {
                Ok(n) => {
                    self.left -= n;
                    return Some(n);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Waits until all that an ended process wrote was taken.
pub async fn last_words(taking: impl Future, ended: &CancellationToken) {
    tokio::pin!(taking);
    if tokio::time::timeout(DRAIN_TIMEOUT, &mut taking).await.is_err() {
        ended.cancel();
        taking.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    async fn all(mut output: Output, ended: CancellationToken) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = output.next(&ended).await {
            all.extend_from_slice(bytes);
        }
        all
    }

    #[tokio::test]
    async fn the_last_words_of_a_process_are_heard_though_its_child_keeps_the_pipe() {
        let (process, output) = Output::pipe().unwrap();
        let child = process.try_clone().unwrap();
        let words = vec![b'x'; 60_000];
        std::fs::File::from(process).write_all(&words).unwrap();
        // The process has ended before anything of it was read, and nothing has waited for the pipe yet.
        let ended = CancellationToken::new();
        ended.cancel();
        assert_eq!(all(output, ended).await.len(), words.len());
        drop(child);
    }

    #[tokio::test(start_paused = true)]
    async fn children_are_heard_for_a_while_and_not_for_ever() {
        let (process, output) = Output::pipe().unwrap();
        let mut child = std::fs::File::from(process.try_clone().unwrap());
        drop(process);
        let ended = CancellationToken::new();
        let reading = tokio::spawn(all(output, ended.clone()));
        child.write_all(b"late").unwrap();
        last_words(async {}, &ended).await;
        assert!(!ended.is_cancelled());
        let mut heard = Vec::new();
        last_words(async { heard = reading.await.unwrap() }, &ended).await;
        assert_eq!((ended.is_cancelled(), heard.as_slice()), (true, b"late".as_slice()));
    }
}
