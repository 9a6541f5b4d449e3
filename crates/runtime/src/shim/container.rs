//! One container of a shim: its process, its output, and who is attached to it. Nothing here waits: neither a container that doesn't
//! read nor a client that doesn't can stop the shim.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{pipe2, read, write};

use super::launch::{self, Launch, Stdio};
use super::logs::LogWriter;
use super::set_nonblocking;
use crate::protocol::{ContainerState, Start};

/// What is read or written at a time.
const CHUNK_BYTES: usize = 32 << 10;
/// What is read of a stream after the container's end: as much as a pipe can hold (pipe(7), `pipe-max-size`). What its children write
/// later comes with the next round.
const MAX_TAIL_BYTES: usize = 1 << 20;
/// A client that takes nothing for so long is let go. As long as it takes something, the container waits for it.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Bytes on their way to somebody who isn't waited for.
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

    fn is_idle(&self) -> bool {
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

/// Somebody who is connected to a container's streams.
pub struct Attached {
    input: Option<OwnedFd>,
    outputs: [Option<Outgoing>; 2],
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

    fn send(&mut self, stream: usize, bytes: &[u8]) {
        if let Some(out) = &mut self.outputs[stream]
            && out.send(bytes).is_err()
        {
            self.outputs[stream] = None;
        }
    }
}

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
    /// What somebody has typed and the container hasn't read; no more is taken meanwhile.
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

    /// Passes input of somebody attached on to the container. Whether there was some.
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
                // Nobody reads it if stdin was closed.
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
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn container(folder: &Path, stdin_once: bool) -> (Container, std::fs::File, std::fs::File) {
        let start = serde_json::json!({"id": "c", "bundle": "/b", "root": "/r", "log": folder.join("log"), "stdin_once": stdin_once});
        let start: Start = serde_json::from_value(start).unwrap();
        let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ((out_read, out_write), (in_read, in_write)) = (pipe(), pipe());
        for end in [&out_read, &in_write] {
            set_nonblocking(end).unwrap();
        }
        let log = LogWriter::open(Path::new(&start.log)).unwrap();
        let state = ContainerState { id: "c".into(), pid: 1, started_at: String::new(), exit: None };
        let container = Container {
            state,
            start,
            input: Some(in_write),
            typed: Vec::new(),
            input_ends: false,
            streams: [Some(out_read), None],
            log: Some(log),
            attached: BTreeMap::new(),
            next: 0,
        };
        (container, out_write.into(), in_read.into())
    }

    /// Does all that can be done without waiting; whether there was anything.
    fn round(container: &mut Container) -> bool {
        let parts = container.parts();
        let mut polled: Vec<libc::pollfd> =
            parts.iter().map(|(_, fd, flags)| libc::pollfd { fd: *fd, events: flags.bits(), revents: 0 }).collect();
        // SAFETY: the pointer and the length are those of a vector that lives through the call.
        #[allow(unsafe_code)]
        unsafe {
            libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0)
        };
        let ready: Vec<Part> =
            parts.iter().zip(&polled).filter(|(_, p)| p.revents != 0).map(|((part, ..), _)| *part).collect();
        ready.iter().for_each(|part| container.happened(*part));
        !ready.is_empty()
    }

    /// A client: its ends of stdin and stdout, and its connection.
    fn client(container: &mut Container) -> (std::fs::File, std::fs::File, OwnedFd) {
        let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ((in_read, in_write), (out_read, out_write), (ours, theirs)) = (pipe(), pipe(), pipe());
        container.attach(Attached::new(Some(in_read), [Some(out_write), None], ours).unwrap());
        (in_write.into(), out_read.into(), theirs)
    }

    #[test]
    fn a_container_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut container, _out, mut stdin) = container(folder.path(), true);
        let (mut typing, _screen, connection) = client(&mut container);
        set_nonblocking(&OwnedFd::from(typing.try_clone().unwrap())).unwrap();
        let mut typed = 0;
        // Until nothing moves any more: the container's pipe is full, and so is the client's.
        loop {
            match typing.write(&[7; 4096]) {
                Ok(n) => typed += n,
                Err(_) if !round(&mut container) => break,
                Err(_) => {}
            }
        }
        assert!(typed >= 64 << 10 && container.typed.len() <= CHUNK_BYTES, "{typed}");
        // What the client leaves behind stops nobody, and what it had typed before is there.
        drop((typing, connection));
        while round(&mut container) {}
        assert!(container.attached.is_empty());
        let mut read = 0;
        while container.input.is_some() {
            read += stdin.read(&mut [0; 64 << 10]).unwrap();
            while round(&mut container) {}
            if container.typed.is_empty() {
                break;
            }
        }
        assert!(read > 0);
    }

    #[test]
    fn a_client_that_leaves_at_once_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (mut container, _out, mut stdin) = container(folder.path(), true);
        let (mut typing, screen, connection) = client(&mut container);
        typing.write_all(b"words").unwrap();
        drop((typing, screen, connection));
        while round(&mut container) {}
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "words", "and stdin is closed");
    }

    #[test]
    fn a_client_that_takes_nothing_is_let_go_and_loses_nothing_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut container, mut out, _stdin) = container(folder.path(), false);
        let (_typing, mut screen, _connection) = client(&mut container);
        set_nonblocking(&OwnedFd::from(out.try_clone().unwrap())).unwrap();
        let mut written = 0;
        loop {
            match out.write(&[b'x'; 4096]) {
                Ok(n) => written += n,
                Err(_) if !round(&mut container) => break,
                Err(_) => {}
            }
        }
        // The container waits, the shim doesn't, and it knows for how long.
        let deadline = container.deadline().unwrap();
        assert!(!container.parts().iter().any(|(part, ..)| matches!(part, Part::Output(_))));
        container.let_go(deadline - Duration::from_millis(1));
        assert!(container.deadline().is_some());
        // A client that takes something has as long again, and gets all.
        let mut taken = screen.read(&mut vec![0; 64 << 10]).unwrap();
        while round(&mut container) {}
        container.let_go(deadline);
        assert!(container.attached[&0].outputs[0].is_some());
        // One that doesn't is let go, and the container goes on.
        container.let_go(Instant::now() + SEND_TIMEOUT);
        assert!(container.attached[&0].outputs[0].is_none());
        while round(&mut container) {}
        assert!(out.write(&[b'x'; 4096]).is_ok());
        drop(container);
        while let Ok(n @ 1..) = screen.read(&mut vec![0; 64 << 10]) {
            taken += n;
        }
        assert!(taken >= 64 << 10 && taken <= written, "{taken} of {written}");
    }
}
