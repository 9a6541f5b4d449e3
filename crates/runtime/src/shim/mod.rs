//! The shim: the parent of one pod's containers.
//!
//! It is single-threaded, as it forks helpers that call `libcontainer`, which allocates after the fork. It waits in
//! one `poll` and nowhere else: on its socket, on its connections, on helpers, on containers' output, and on SIGCHLD (through a
//! signalfd). Its state is on disk before it is told to anybody.

mod attached;
mod container;
mod details;
mod enter;
mod helper;
mod launch;
pub mod logs;
pub mod profile;
mod requests;
mod seccomp;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::protocol::{Answer, Exit, Request, SHIM_ARGUMENT};
use crate::seqpacket;
use attached::Attached;
use container::{Container, Part};
use requests::Work;

/// Connections that haven't said yet what they want. Further ones wait in the socket's queue.
const MAX_CLIENTS: usize = 64;

fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(|_| ())
}

/// Runs the shim if this process was started as one: `timonel __shim STATE_FILE`.
pub fn shim_main() -> Option<ExitCode> {
    if let Some(done) = crate::late_mounts::bind_main().or_else(crate::namespaces::create_main) {
        return Some(done);
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SHIM_ARGUMENT {
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
    watchers: Vec<Watcher>,
    /// Connections that haven't said yet what they want.
    asking: Vec<OwnedFd>,
    /// What was asked for and waits for the helper that is at work.
    queued: VecDeque<(OwnedFd, Request, Vec<OwnedFd>)>,
    /// What helpers are at.
    work: Vec<Work>,
    /// Children that have ended and aren't known here, for as long as there is work that may make them known.
    strangers: HashMap<i32, Exit>,
    /// Clients of ended containers that haven't taken all yet.
    leaving: Vec<Leaving>,
    quit: bool,
}

/// A client that watches all containers.
struct Watcher {
    connection: OwnedFd,
    /// Whether the present state was told, or is about to be.
    is_admitted: bool,
    /// What the connection has no room for. Each container ends once, so this can't grow without end.
    news: VecDeque<Answer>,
}

impl Watcher {
    fn key(&self) -> RawFd {
        self.connection.as_raw_fd()
    }

    fn tell(&mut self) {
        while let Some(answer) = self.news.front() {
            match seqpacket::send(&self.connection, answer, &[]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // Who has left is noticed by the connection.
                _ => drop(self.news.pop_front()),
            }
        }
    }

    /// Tells what is to be told; whether anybody is there. A watcher never sends anything: being readable means that it left.
    fn is_there(&mut self) -> bool {
        self.tell();
        !seqpacket::is_readable(&self.connection)
    }
}

/// A client of an ended container, and what it hears when it has taken all.
struct Leaving {
    attached: Attached,
    farewell: Answer,
}

/// What something that happened belongs to.
#[derive(Clone)]
enum Source {
    Listener,
    Signals,
    Work,
    Leaving,
    Watcher(RawFd),
    Asking(RawFd),
    Container(String, Part),
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
            asking: Vec::new(),
            queued: VecDeque::new(),
            work: Vec::new(),
            strangers: HashMap::new(),
            leaving: Vec::new(),
            quit: false,
        })
    }

    fn run(mut self) -> std::io::Result<()> {
        while !self.quit {
            let sources = self.sources();
            for source in self.wait(&sources)? {
                self.happened(source);
            }
            self.finish_work();
            self.admit_watchers();
            self.let_go(Instant::now());
        }
        Ok(())
    }

    /// Waits until something happens or is due, and returns what has.
    fn wait(&self, sources: &[(Source, RawFd, PollFlags)]) -> std::io::Result<Vec<Source>> {
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| {
                // SAFETY: the descriptors live in `self`, which nothing changes before poll returns.
                #[allow(unsafe_code)]
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
                PollFd::new(fd, *flags)
            })
            .collect();
        let timeout = self.deadline().map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |p: &PollFd<'_>| p.revents().is_some_and(|r| !r.is_empty());
        Ok(sources.iter().zip(&polled).filter(|(_, p)| is_ready(p)).map(|((source, ..), _)| source.clone()).collect())
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let helpers = self.work.iter().filter_map(Work::deadline);
        let clients = self.containers.values().filter_map(Container::deadline);
        helpers.chain(clients).chain(self.leaving.iter().filter_map(|l| l.attached.deadline())).min()
    }

    /// What is waited for. Output comes before deaths, so that a container's last words are in its log before its end is told.
    fn sources(&self) -> Vec<(Source, RawFd, PollFlags)> {
        let mut all = Vec::new();
        for (id, container) in &self.containers {
            let parts = container.parts().into_iter();
            all.extend(parts.map(|(part, fd, flags)| (Source::Container(id.clone(), part), fd, flags)));
        }
        let mut read = |source, fd| all.push((source, fd, PollFlags::POLLIN));
        for work in &self.work {
            // The work itself is looked at after each round.
            work.descriptors().for_each(|fd| read(Source::Work, fd));
        }
        for watcher in &self.watchers {
            read(Source::Watcher(watcher.key()), watcher.connection.as_raw_fd());
        }
        for asking in &self.asking {
            read(Source::Asking(asking.as_raw_fd()), asking.as_raw_fd());
        }
        read(Source::Signals, self.signals.as_fd().as_raw_fd());
        if self.asking.len() < MAX_CLIENTS {
            read(Source::Listener, self.listener.as_raw_fd());
        }
        for leaving in &self.leaving {
            all.extend(leaving.attached.waiting().map(|fd| (Source::Leaving, fd, PollFlags::POLLOUT)));
        }
        for watcher in self.watchers.iter().filter(|w| !w.news.is_empty()) {
            all.push((Source::Watcher(watcher.key()), watcher.connection.as_raw_fd(), PollFlags::POLLOUT));
        }
        all
    }

    fn happened(&mut self, source: Source) {
        match source {
            Source::Container(id, part) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.happened(part);
                }
            }
            Source::Watcher(key) => self.watchers.retain_mut(|watcher| watcher.key() != key || watcher.is_there()),
            Source::Asking(fd) => self.asked(fd),
            Source::Listener => {
                while self.asking.len() < MAX_CLIENTS
                    && let Ok(connection) = seqpacket::accept_without_waiting(&self.listener)
                {
                    self.asking.push(connection);
                }
            }
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Work | Source::Leaving => {}
        }
    }

    /// Lets clients go that take nothing, and those of ended containers that have all.
    fn let_go(&mut self, now: Instant) {
        self.containers.values_mut().for_each(|container| container.let_go(now));
        self.leaving.retain_mut(|leaving| {
            let has_all = leaving.attached.flush(now);
            if has_all {
                let _ = seqpacket::send(&leaving.attached.connection, &leaving.farewell, &[]);
            }
            !has_all
        });
    }

    /// Answers those who want to watch, once no container is on its way: they are to know of all.
    fn admit_watchers(&mut self) {
        if self.work.iter().any(Work::changes_containers) {
            return;
        }
        let states: Vec<_> = self.containers.values().map(|c| c.state.clone()).collect();
        for watcher in self.watchers.iter_mut().filter(|watcher| !watcher.is_admitted) {
            watcher.is_admitted = true;
            watcher.news.push_back(Answer::State { version: crate::protocol::VERSION, containers: states.clone() });
            watcher.tell();
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
            let exit = Exit { code, signal, oom: false, at: jiff::Timestamp::now().to_string() };
            self.ended(pid.as_raw(), exit);
        }
    }

    /// Tells of the end of a process to those who want to know.
    fn ended(&mut self, pid: i32, exit: Exit) {
        if let Some(execution) = self.executions.remove(&pid) {
            let _ = seqpacket::send(&execution.connection, &Answer::Exited { id: execution.container, exit }, &[]);
            return;
        }
        let Some(container) = self.containers.values_mut().find(|c| c.state.pid == pid && c.state.exit.is_none())
        else {
            // It may be one whose start isn't known here yet.
            if !self.work.is_empty() {
                self.strangers.insert(pid, exit);
            }
            return;
        };
        let attached = container.ended();
        let exit = Exit { oom: container.was_oom_killed(), ..exit };
        container.state.exit = Some(exit.clone());
        let message = Answer::Exited { id: container.state.id.clone(), exit };
        self.leaving.extend(attached.into_iter().map(|attached| Leaving { attached, farewell: message.clone() }));
        self.save();
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.is_admitted) {
            watcher.news.push_back(message.clone());
            watcher.tell();
        }
    }

    /// Writes the state file, whole or not at all.
    fn save(&self) {
        let states: Vec<_> = self.containers.values().map(|c| &c.state).collect();
        let written = serde_json::to_vec(&states)
            .map_err(std::io::Error::from)
            .and_then(|text| bounded::durable::replace(&self.state_file, &text));
        if let Err(error) = written {
            eprintln!("the state can't be written: {error}");
        }
    }
}
