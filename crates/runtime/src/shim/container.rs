//! One container of a shim: its process, its output, and who is attached to it.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};

use super::launch::{self, Stdio};
use super::logs::LogWriter;
use crate::protocol::{ContainerState, Start};

/// Somebody who is connected to a container's streams.
pub struct Attached {
    pub input: Option<OwnedFd>,
    pub outputs: [Option<OwnedFd>; 2],
    pub connection: OwnedFd,
}

pub struct Container {
    pub state: ContainerState,
    start: Start,
    /// Write end of stdin, or the terminal.
    input: Option<OwnedFd>,
    /// Read ends of stdout and stderr; with a terminal only the first is used.
    streams: [Option<OwnedFd>; 2],
    /// Open until both streams have ended: who reads the log sees by that whether there may be more.
    log: Option<LogWriter>,
    pub attached: Vec<Attached>,
}

const STREAMS: [&str; 2] = ["stdout", "stderr"];

fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(|_| ())
}

impl Container {
    pub fn start(start: Start) -> Result<Self, String> {
        let log =
            LogWriter::open(Path::new(&start.log)).map_err(|e| format!("can't open the log {}: {e}", start.log))?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("can't make a pipe: {e}"));
        let mut input = None;
        let mut streams = [None, None];
        let launched = if start.tty {
            let launched = launch::create(&start, Stdio::Terminal)?;
            let terminal = launched.terminal.ok_or("no terminal came")?;
            input = Some(nix::unistd::dup(&terminal).map_err(|e| e.to_string())?);
            streams[0] = Some(terminal);
            launched.pid
        } else {
            let (out_read, out_write) = pipe()?;
            let (err_read, err_write) = pipe()?;
            let stdin = if start.stdin {
                let (in_read, in_write) = pipe()?;
                input = Some(in_write);
                in_read
            } else {
                std::fs::File::open("/dev/null").map_err(|e| e.to_string())?.into()
            };
            let launched = launch::create(&start, Stdio::Pipes([stdin, out_write, err_write]))?;
            streams = [Some(out_read), Some(err_read)];
            launched.pid
        };
        for stream in streams.iter().flatten() {
            set_nonblocking(stream).map_err(|e| e.to_string())?;
        }
        let started_at = jiff::Timestamp::now().to_string();
        let state = ContainerState { id: start.id.clone(), pid: launched, started_at, exit: None };
        Ok(Container { state, start, input, streams, log: Some(log), attached: Vec::new() })
    }

    pub fn outputs(&self) -> Vec<(usize, RawFd)> {
        self.streams.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?.as_raw_fd()))).collect()
    }

    /// Reads what there is of one stream, into the log and to those attached.
    pub fn read_output(&mut self, stream: usize) {
        let mut buffer = [0u8; 32 << 10];
        let Some(fd) = &self.streams[stream] else { return };
        match read(fd, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => {
                self.end_line(stream);
                self.streams[stream] = None;
                if self.streams.iter().all(Option::is_none) {
                    self.log = None;
                }
            }
            Ok(n) => {
                if let Some(log) = &mut self.log {
                    log.write(STREAMS[stream], &buffer[..n]);
                }
                for attached in &mut self.attached {
                    if let Some(out) = &attached.outputs[stream]
                        && write_all(out, &buffer[..n]).is_err()
                    {
                        attached.outputs[stream] = None;
                    }
                }
            }
            Err(_) => {}
        }
    }

    /// Reads what is left after the process has ended. Its children may hold the streams open, so this doesn't wait
    /// for their end.
    pub fn drain(&mut self) {
        for stream in [0, 1] {
            while let Some(fd) = &self.streams[stream] {
                let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(fd), nix::poll::PollFlags::POLLIN)];
                if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) != Ok(1) {
                    break;
                }
                self.read_output(stream);
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
        self.attached.push(attached);
    }

    /// Passes input of somebody attached on to the container.
    pub fn forward_input(&mut self, index: usize) {
        let mut buffer = [0u8; 32 << 10];
        let attached = &mut self.attached[index];
        let Some(from) = &attached.input else { return };
        match read(from, &mut buffer) {
            Ok(0) => {
                attached.input = None;
                if self.start.stdin_once && !self.start.tty {
                    self.input = None;
                }
            }
            Ok(n) => {
                if let Some(to) = &self.input
                    && write_all(to, &buffer[..n]).is_err()
                {
                    attached.input = None;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => attached.input = None,
        }
    }

    pub fn exec(&self, process: &str, tty: bool, fds: Vec<OwnedFd>) -> Result<(i32, Option<OwnedFd>), String> {
        if self.state.exit.is_some() {
            return Err(format!("container {} has ended", self.state.id));
        }
        let stdio = if tty {
            Stdio::Terminal
        } else {
            Stdio::Pipes(fds.try_into().map_err(|_| "exec needs three descriptors".to_string())?)
        };
        let launched = launch::exec(&self.start, Path::new(process), stdio)?;
        Ok((launched.pid, launched.terminal))
    }

    pub fn resize(&self, width: u16, height: u16) -> Result<(), String> {
        let Some(terminal) = self.input.as_ref().filter(|_| self.start.tty) else { return Ok(()) };
        crate::client::set_terminal_size(terminal, width, height).map_err(|e| e.to_string())
    }

    /// Whether the kernel killed something in the cgroup for want of memory.
    pub fn was_oom_killed(&self) -> bool {
        crate::cgroup::oom_kills(&self.start.cgroup) > 0
    }

    pub fn delete(self) -> Result<(), String> {
        launch::delete(&self.start)
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(fd), nix::poll::PollFlags::POLLOUT)];
                // A reader that takes nothing for a second is let go, so that it can't stop the container.
                if nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(1000u16)) != Ok(1) {
                    return Err(Errno::EAGAIN);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
