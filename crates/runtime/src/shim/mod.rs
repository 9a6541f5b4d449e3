//! The shim: the parent of one pod's containers.
//!
//! It is single-threaded, as it forks helpers that call `libcontainer`, which allocates after the fork. It waits in
//! one `poll`: on its socket, on its connections, on containers' output, and on SIGCHLD (through a signalfd). Its state
//! is on disk before it is told to anybody.

mod container;
mod enter;
pub mod late;
mod launch;
pub mod logs;
pub mod profile;
mod seccomp;

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::protocol::{Answer, Exit, Request, VERSION};
use crate::seqpacket;
use container::{Attached, Container};

/// The descriptor on which the daemon hands over the listening socket.
pub const ARGUMENT: &str = "__shim";

/// Runs the shim if this process was started as one: `timonel __shim STATE_FILE`.
pub fn shim_main() -> Option<ExitCode> {
    if let Some(done) = late::bind_main().or_else(crate::namespaces::create_main) {
        return Some(done);
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let state = PathBuf::from(arguments.next()?);
    match Shim::new(&state).and_then(Shim::run) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("the shim failed: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// A process that was started with `Exec`, and who wants to know of its end.
struct Execution {
    container: String,
    connection: OwnedFd,
}

struct Shim {
    state_file: PathBuf,
    listener: OwnedFd,
    signals: SignalFd,
    containers: HashMap<String, Container>,
    executions: HashMap<i32, Execution>,
    watchers: Vec<OwnedFd>,
    quit: bool,
}

/// What a descriptor that became readable belongs to.
enum Source {
    Listener,
    Signals,
    Watcher(usize),
    Output(String, usize),
    AttachedInput(String, usize),
}

impl Shim {
    fn new(state: &Path) -> std::io::Result<Self> {
        // A session of its own, so that nothing meant for the daemon's terminal ends the containers.
        nix::unistd::setsid()?;
        // The daemon gave us the listening socket as standard input.
        let input = std::io::stdin();
        let listener = input.as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let _ = nix::sys::prctl::set_name(c"timonel-shim");
        Ok(Shim {
            state_file: state.into(),
            listener,
            signals,
            containers: HashMap::new(),
            executions: HashMap::new(),
            watchers: Vec::new(),
            quit: false,
        })
    }

    fn run(mut self) -> std::io::Result<()> {
        while !self.quit {
            let (sources, fds) = self.sources();
            let ready: Vec<bool> = {
                let mut polled: Vec<PollFd<'_>> = fds
                    .iter()
                    .map(|fd| {
                        // SAFETY: the descriptors live in `self`, which nothing changes before poll returns.
                        #[allow(unsafe_code)]
                        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
                        PollFd::new(fd, PollFlags::POLLIN)
                    })
                    .collect();
                match poll(&mut polled, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                polled.iter().map(|p| p.revents().is_some_and(|r| !r.is_empty())).collect()
            };
            // Output before deaths, so that a container's last words are in its log before its end is told.
            let mut gone = Vec::new();
            for (source, _) in sources.into_iter().zip(ready).filter(|(_, ready)| *ready) {
                match source {
                    Source::Output(id, stream) => self.output(&id, stream),
                    Source::AttachedInput(id, index) => self.attached_input(&id, index),
                    Source::Watcher(index) => gone.push(index),
                    Source::Listener => self.accept(),
                    Source::Signals => {
                        while let Ok(Some(_)) = self.signals.read_signal() {}
                        self.reap();
                    }
                }
            }
            // A watcher never sends anything; being readable means that it left.
            for index in gone.into_iter().rev() {
                self.watchers.swap_remove(index);
            }
        }
        Ok(())
    }

    fn sources(&self) -> (Vec<Source>, Vec<RawFd>) {
        let mut all = Vec::new();
        for (id, container) in &self.containers {
            for (stream, fd) in container.outputs() {
                all.push((Source::Output(id.clone(), stream), fd));
            }
            for (index, attached) in container.attached.iter().enumerate() {
                if let Some(input) = &attached.input {
                    all.push((Source::AttachedInput(id.clone(), index), input.as_raw_fd()));
                }
            }
        }
        for (index, watcher) in self.watchers.iter().enumerate() {
            all.push((Source::Watcher(index), watcher.as_raw_fd()));
        }
        all.push((Source::Signals, self.signals.as_fd().as_raw_fd()));
        all.push((Source::Listener, self.listener.as_raw_fd()));
        all.into_iter().unzip()
    }

    fn output(&mut self, id: &str, stream: usize) {
        if let Some(container) = self.containers.get_mut(id) {
            container.read_output(stream);
        }
    }

    fn attached_input(&mut self, id: &str, index: usize) {
        if let Some(container) = self.containers.get_mut(id) {
            container.forward_input(index);
        }
    }

    fn accept(&mut self) {
        let Ok(connection) = seqpacket::accept(&self.listener) else { return };
        match seqpacket::receive::<Request>(&connection) {
            Ok(Some((request, fds))) => self.answer(connection, request, fds),
            Ok(None) => {}
            Err(error) => {
                let _ =
                    seqpacket::send(&connection, &Answer::Failed { error: format!("malformed request: {error}") }, &[]);
            }
        }
    }

    fn answer(&mut self, connection: OwnedFd, request: Request, mut fds: Vec<OwnedFd>) {
        let done = |result: Result<(), String>| match result {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed { error },
        };
        let answer = match request {
            Request::Watch => {
                let containers = self.containers.values().map(|c| c.state.clone()).collect();
                let _ = seqpacket::send(&connection, &Answer::State { version: VERSION, containers }, &[]);
                self.watchers.push(connection);
                return;
            }
            Request::Start(start) => match Container::start(start) {
                Ok(container) => {
                    let pid = container.state.pid;
                    self.containers.insert(container.state.id.clone(), container);
                    self.save();
                    Answer::Started { pid }
                }
                Err(error) => Answer::Failed { error },
            },
            Request::Kill { id, signal } => done(self.kill(&id, signal)),
            Request::Delete { id } => {
                let result = match self.containers.remove(&id) {
                    Some(container) => container.delete(),
                    None => Ok(()),
                };
                self.save();
                done(result)
            }
            Request::Exec { id, process, tty } => {
                let Some(container) = self.containers.get(&id) else {
                    let error = format!("container {id} isn't running");
                    let _ = seqpacket::send(&connection, &Answer::Failed { error }, &[]);
                    return;
                };
                match container.exec(&process, tty, fds) {
                    Ok((pid, terminal)) => {
                        let terminal: Vec<RawFd> = terminal.iter().map(|t| t.as_raw_fd()).collect();
                        let _ = seqpacket::send(&connection, &Answer::Started { pid }, &terminal);
                        self.executions.insert(pid, Execution { container: id, connection });
                        // It may have ended before it was known here.
                        self.reap();
                        return;
                    }
                    Err(error) => Answer::Failed { error },
                }
            }
            Request::Attach { id, stdin } => match self.containers.get_mut(&id) {
                Some(container) if container.state.exit.is_none() && fds.len() == 3 => {
                    let _ = seqpacket::send(&connection, &Answer::Done, &[]);
                    let (stderr, stdout, input) = (fds.pop(), fds.pop(), fds.pop());
                    let input = input.filter(|_| stdin);
                    container.attach(Attached { input, outputs: [stdout, stderr], connection });
                    return;
                }
                Some(container) if container.state.exit.is_some() => {
                    Answer::Failed { error: format!("container {id} has ended") }
                }
                Some(_) => Answer::Failed { error: "attach needs three descriptors".into() },
                None => Answer::Failed { error: format!("container {id} isn't running") },
            },
            Request::Resize { id, width, height } => match self.containers.get(&id) {
                Some(container) => done(container.resize(width, height)),
                None => Answer::Failed { error: format!("container {id} isn't running") },
            },
            Request::ShareProcesses { users } => match launch::share_processes(users.as_deref()) {
                Ok(pid) => Answer::Started { pid },
                Err(error) => Answer::Failed { error },
            },
            Request::Quit => {
                self.quit = self.containers.values().all(|c| c.state.exit.is_some());
                let error = "a container is still running".to_string();
                if self.quit { Answer::Done } else { Answer::Failed { error } }
            }
        };
        let _ = seqpacket::send(&connection, &answer, &[]);
    }

    fn kill(&self, id: &str, signal: i32) -> Result<(), String> {
        let container = self.containers.get(id).ok_or_else(|| format!("there is no container {id}"))?;
        if container.state.exit.is_some() {
            return Ok(());
        }
        let signal = Signal::try_from(signal).map_err(|e| e.to_string())?;
        // The process is our child and not reaped yet, so its id is still its own.
        match nix::sys::signal::kill(Pid::from_raw(container.state.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Collects all children that have ended.
    fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.ended(pid.as_raw(), code, signal);
        }
    }

    fn ended(&mut self, pid: i32, code: i32, signal: i32) {
        let at = jiff::Timestamp::now().to_string();
        if let Some(execution) = self.executions.remove(&pid) {
            let exit = Exit { code, signal, oom: false, at };
            let _ = seqpacket::send(&execution.connection, &Answer::Exited { id: execution.container, exit }, &[]);
            return;
        }
        let Some(container) = self.containers.values_mut().find(|c| c.state.pid == pid) else { return };
        container.drain();
        let exit = Exit { code, signal, oom: container.was_oom_killed(), at };
        container.state.exit = Some(exit.clone());
        let id = container.state.id.clone();
        for attached in container.attached.drain(..) {
            let _ = seqpacket::send(&attached.connection, &Answer::Exited { id: id.clone(), exit: exit.clone() }, &[]);
        }
        self.save();
        let message = Answer::Exited { id, exit };
        self.watchers.retain(|watcher| seqpacket::send(watcher, &message, &[]).is_ok());
    }

    /// Writes the state file, whole or not at all.
    fn save(&self) {
        let states: Vec<_> = self.containers.values().map(|c| &c.state).collect();
        let new = self.state_file.with_extension("new");
        let written = serde_json::to_vec(&states)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &self.state_file));
        if let Err(error) = written {
            eprintln!("the state can't be written: {error}");
        }
    }
}
