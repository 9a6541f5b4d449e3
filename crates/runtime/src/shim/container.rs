//! One container of a shim: its process, its output, and who is attached to it. Nothing here waits: neither a container that doesn't
//! read nor a client that doesn't can stop the shim.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{pipe2, read, write};

use super::attached::Attached;
use super::launch::{self, Launch, Stdio};
use super::logs::LogWriter;
use super::set_nonblocking;
use crate::protocol::{ContainerState, Start};

/// What is read or written at a time.
const CHUNK_BYTES: usize = 32 << 10;
/// What is read of a stream after the container's end: as much as a pipe can hold (pipe(7), `pipe-max-size`). What its children write
/// later comes with the next round.
const MAX_TAIL_BYTES: usize = 1 << 20;
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// A container that is being started.
pub struct Starting {
    pub launch: Launch,
    start: Start,
    input: Option<OwnedFd>,
    streams: [Option<OwnedFd>; 2],
    log: LogWriter,
}

impl Starting {
    pub fn begin(start: Start) -> Result<Self, String> {
        let log =
            LogWriter::open(Path::new(&start.log)).map_err(|e| format!("can't open the log {}: {e}", start.log))?;
        let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| format!("can't make a pipe: {e}"));
        if start.tty {
            let launch = launch::create(&start, Stdio::Terminal)?;
            return Ok(Starting { launch, start, input: None, streams: [None, None], log });
        }
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let (stdin, input) = if start.stdin {
            let (in_read, in_write) = pipe()?;
            (in_read, Some(in_write))
        } else {
            (std::fs::File::open("/dev/null").map_err(|e| e.to_string())?.into(), None)
        };
        let launch = launch::create(&start, Stdio::Pipes([stdin, out_write, err_write]))?;
        Ok(Starting { launch, start, input, streams: [Some(out_read), Some(err_read)], log })
    }

    pub fn id(&self) -> &str {
        &self.start.id
    }

    /// The container, once its helper is done; or what is to be removed, and why there is none.
    pub fn finish(self) -> Result<Container, (Box<Start>, String)> {
        let Starting { launch, start, mut input, mut streams, log } = self;
        let pid = (|| {
            let launched = launch.finish()?;
            if start.tty {
                let terminal = launched.terminal.ok_or("no terminal came")?;
                input = Some(nix::unistd::dup(&terminal).map_err(|e| e.to_string())?);
                streams[0] = Some(terminal);
            }
            for stream in streams.iter().chain([&input]).flatten() {
                set_nonblocking(stream).map_err(|e| e.to_string())?;
            }
            Ok(launched.pid)
        })();
        let pid = match pid {
            Ok(pid) => pid,
            Err(why) => return Err((Box::new(start), why)),
        };
        let started_at = jiff::Timestamp::now().to_string();
        let state = ContainerState { id: start.id.clone(), pid, started_at, exit: None };
        Ok(Container {
            state,
            start,
            input,
            typed: Vec::new(),
            input_ends: false,
            streams,
            log: Some(log),
            attached: BTreeMap::new(),
            next: 0,
        })
    }
}

pub struct Container {
    pub state: ContainerState,
    start: Start,
    /// Write end of stdin, or the terminal.
    input: Option<OwnedFd>,
    /// Input of a client that the container hasn't read yet; no more is taken meanwhile.
    typed: Vec<u8>,
    /// Whether stdin is to be closed when all of that is read.
    input_ends: bool,
    /// Read ends of stdout and stderr; with a terminal only the first is used.
    streams: [Option<OwnedFd>; 2],
    /// Open until both streams have ended: who reads the log sees by that whether there may be more.
    log: Option<LogWriter>,
    attached: BTreeMap<u64, Attached>,
    next: u64,
}

/// Something of a container that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its stdin takes something again.
    Input,
    Output(usize),
    /// A client has typed something.
    Typed(u64),
    /// A client takes something again.
    Client(u64),
    /// A client has left.
    Left(u64),
}

impl Container {
    /// What is to be waited for now.
    pub fn parts(&self) -> Vec<(Part, RawFd, PollFlags)> {
        let mut parts = Vec::new();
        for (stream, fd) in self.streams.iter().enumerate() {
            // The slowest of the clients says how fast the container may write, until it is let go.
            let is_awaited = self.attached.values().any(|a| a.outputs[stream].as_ref().is_some_and(|o| !o.is_idle()));
            if let Some(fd) = fd.as_ref().filter(|_| !is_awaited) {
                parts.push((Part::Output(stream), fd.as_raw_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.typed.is_empty()) {
            parts.push((Part::Input, input.as_raw_fd(), PollFlags::POLLOUT));
        }
        for (key, attached) in &self.attached {
            if let Some(input) = attached.input.as_ref().filter(|_| self.typed.is_empty()) {
                parts.push((Part::Typed(*key), input.as_raw_fd(), PollFlags::POLLIN));
            }
            parts.extend(attached.waiting().map(|fd| (Part::Client(*key), fd, PollFlags::POLLOUT)));
            parts.push((Part::Left(*key), attached.connection.as_raw_fd(), PollFlags::POLLIN));
        }
        parts
    }

    /// When something is to be done though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.attached.values().filter_map(Attached::deadline).min()
    }

    pub fn happened(&mut self, part: Part) {
        match part {
            Part::Input => self.pass_on(),
            Part::Output(stream) => _ = self.read_output(stream),
            Part::Typed(key) => self.forward_input(key),
            Part::Client(key) => {
                if let Some(attached) = self.attached.get_mut(&key) {
                    attached.flush(Instant::now());
                }
            }
            Part::Left(key) => self.left(key),
        }
    }

    /// Lets clients go that have taken nothing for too long.
    pub fn let_go(&mut self, now: Instant) {
        for attached in self.attached.values_mut().filter(|a| a.deadline().is_some_and(|at| at <= now)) {
            attached.flush(now);
        }
    }

    /// Reads what there is of one stream, into the log and to those attached. How much it was.
    fn read_output(&mut self, stream: usize) -> usize {
        let mut buffer = [0u8; CHUNK_BYTES];
        let Some(fd) = &self.streams[stream] else { return 0 };
        match read(fd, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => {
                self.end_line(stream);
                self.streams[stream] = None;
                if self.streams.iter().all(Option::is_none) {
                    self.log = None;
                }
                0
            }
            Ok(n) => {
                if let Some(log) = &mut self.log {
                    log.write(STREAMS[stream], &buffer[..n]);
                }
                for attached in self.attached.values_mut() {
                    attached.send(stream, &buffer[..n]);
                }
                n
            }
            Err(_) => 0,
        }
    }

    /// Reads what is left after the process has ended. Its children may hold the streams open, so this doesn't wait
    /// for their end.
    fn drain(&mut self) {
        for stream in [0, 1] {
            let mut all = 0;
            while all < MAX_TAIL_BYTES {
                match self.read_output(stream) {
                    0 => break,
                    n => all += n,
                }
            }
            self.end_line(stream);
        }
    }

    /// What was written of a line is all of it.
    fn end_line(&mut self, stream: usize) {
        if let Some(log) = &mut self.log {
            log.end(STREAMS[stream]);
        }
    }

    pub fn attach(&mut self, attached: Attached) {
        self.attached.insert(self.next, attached);
        self.next += 1;
    }

    /// A client has left. What it typed goes to the container as long as that takes it.
    fn left(&mut self, key: u64) {
        while self.typed.is_empty() && self.attached.get(&key).is_some_and(|attached| attached.input.is_some()) {
            if !self.forward(key) {
                break;
            }
        }
        self.attached.remove(&key);
    }

    fn forward_input(&mut self, key: u64) {
        self.forward(key);
    }

    /// Passes input of an attached client on to the container. Whether there was some.
    fn forward(&mut self, key: u64) -> bool {
        let mut buffer = [0u8; CHUNK_BYTES];
        let Some(attached) = self.attached.get_mut(&key) else { return false };
        let Some(from) = &attached.input else { return false };
        match read(from, &mut buffer) {
            Ok(0) => {
                attached.input = None;
                self.input_ends = self.start.stdin_once && !self.start.tty;
                self.pass_on();
                false
            }
            Ok(n) => {
                // It is lost if the container has closed its stdin.
                if self.input.is_some() {
                    self.typed.extend_from_slice(&buffer[..n]);
                    self.pass_on();
                }
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Err(_) => {
                attached.input = None;
                false
            }
        }
    }

    /// Writes what was typed, as far as the container takes it.
    fn pass_on(&mut self) {
        while let Some(to) = self.input.as_ref().filter(|_| !self.typed.is_empty()) {
            match write(to, &self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // The container has closed it.
                Err(_) => self.typed.clear(),
            }
        }
        if self.input_ends {
            self.input = None;
        }
    }

    /// The process has ended: returns those who were attached, for whom something may be left.
    pub fn ended(&mut self) -> Vec<Attached> {
        self.drain();
        std::mem::take(&mut self.attached).into_values().collect()
    }

    pub fn exec(&self, process: &str, tty: bool, fds: Vec<OwnedFd>) -> Result<Launch, String> {
        if self.state.exit.is_some() {
            return Err(format!("container {} has ended", self.state.id));
        }
        let stdio = if tty {
            Stdio::Terminal
        } else {
            Stdio::Pipes(fds.try_into().map_err(|_| "exec needs three descriptors".to_string())?)
        };
        launch::exec(&self.start, Path::new(process), stdio)
    }

    pub fn resize(&self, width: u16, height: u16) -> Result<(), String> {
        let Some(terminal) = self.input.as_ref().filter(|_| self.start.tty) else { return Ok(()) };
        crate::terminal::set_terminal_size(terminal, width, height).map_err(|e| e.to_string())
    }

    /// Whether the kernel killed something in the cgroup for want of memory.
    pub fn was_oom_killed(&self) -> bool {
        crate::cgroup::oom_kills(&self.start.cgroup) > 0
    }

    /// What is needed to remove it.
    pub fn into_start(self) -> Start {
        self.start
    }
}

#[cfg(test)]
mod tests;
