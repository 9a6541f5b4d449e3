//! What the daemon asks of a shim. What takes a helper is answered when that is done.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::attached::Attached;
use super::container::Starting;
use super::helper::Helper;
use super::launch::{self, Launch};
use super::{Execution, Shim, Watcher};
use crate::protocol::{Answer, Request, Start};
use crate::seqpacket;

/// Requests that may wait for the helper that is at work.
const MAX_PENDING_REQUESTS: usize = 1024;

/// Whether a helper starts a process for the request. There is one such helper at a time: one is a copy of the shim with all of its
/// descriptors, so that two would hold each other's pipes and sockets open, whose end each waits for.
fn starts_process(request: &Request) -> bool {
    matches!(request, Request::Start(_) | Request::Exec { .. } | Request::ShareProcesses { .. })
}

/// What a helper is at, and who waits for it.
pub enum Work {
    Start {
        starting: Box<Starting>,
        connection: OwnedFd,
        /// Who wants it removed meanwhile.
        removals: Vec<OwnedFd>,
    },
    Exec {
        container: String,
        launch: Box<Launch>,
        connection: OwnedFd,
    },
    Share {
        helper: Helper,
        connection: OwnedFd,
    },
    Delete {
        helper: Option<Helper>,
        start: Box<Start>,
        /// Whom to tell what, if it can be removed.
        answers: Vec<(OwnedFd, Answer)>,
    },
}

impl Work {
    fn helper(&self) -> Option<&Helper> {
        match self {
            Work::Start { starting, .. } => Some(&starting.launch.helper),
            Work::Exec { launch, .. } => Some(&launch.helper),
            Work::Share { helper, .. } => Some(helper),
            Work::Delete { helper, .. } => helper.as_ref(),
        }
    }

    fn helper_mut(&mut self) -> Option<&mut Helper> {
        match self {
            Work::Start { starting, .. } => Some(&mut starting.launch.helper),
            Work::Exec { launch, .. } => Some(&mut launch.helper),
            Work::Share { helper, .. } => Some(helper),
            Work::Delete { helper, .. } => helper.as_mut(),
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.helper().map(Helper::deadline)
    }

    /// What is waited for: its helper, and whoever might not want an exec any more.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let asker = match self {
            Work::Exec { connection, .. } => Some(connection.as_raw_fd()),
            _ => None,
        };
        self.helper().into_iter().flat_map(Helper::descriptors).chain(asker)
    }

    /// Whether it adds or removes a container.
    pub fn changes_containers(&self) -> bool {
        matches!(self, Work::Start { .. } | Work::Delete { .. })
    }

    /// Whether it is done, or there is no point in going on.
    fn is_done(&mut self, now: Instant) -> bool {
        let is_wanted = match self {
            Work::Exec { connection, .. } => !seqpacket::is_readable(connection),
            _ => true,
        };
        let Some(helper) = self.helper_mut() else { return true };
        if helper.is_done() {
            return true;
        }
        if !is_wanted {
            helper.give_up("nobody waits for it any more");
        } else if helper.deadline() <= now {
            helper.give_up(
                "it took too long: processes of the container may have stopped it, or the machine is too slow",
            );
        }
        helper.is_done()
    }
}

fn tell(connection: &OwnedFd, answer: &Answer) {
    // Who doesn't listen any more needn't hear it.
    let _ = seqpacket::send(connection, answer, &[]);
}

fn answer(result: Result<(), String>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed { error },
    }
}

impl Shim {
    /// A client has sent its request, or has closed the connection.
    pub fn asked(&mut self, fd: RawFd) {
        let Some(at) = self.asking.iter().position(|connection| connection.as_raw_fd() == fd) else { return };
        let connection = self.asking.swap_remove(at);
        match seqpacket::receive::<Request>(&connection) {
            Ok(Some((request, fds))) => self.carry_out(connection, request, fds),
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.asking.push(connection),
            Err(error) => tell(&connection, &Answer::Failed { error: format!("malformed request: {error}") }),
        }
    }

    fn carry_out(&mut self, connection: OwnedFd, request: Request, fds: Vec<OwnedFd>) {
        if !starts_process(&request) || !self.is_starting() {
            return self.carry_out_now(connection, request, fds);
        }
        if self.queued.len() >= MAX_PENDING_REQUESTS {
            let error = format!("{MAX_PENDING_REQUESTS} processes are waiting to be started already");
            return tell(&connection, &Answer::Failed { error });
        }
        self.queued.push_back((connection, request, fds));
    }

    /// Whether a helper is starting a process.
    fn is_starting(&self) -> bool {
        self.work.iter().any(|work| !matches!(work, Work::Delete { .. }))
    }

    /// Carries out what waited for the helper that was at work.
    fn carry_out_queued(&mut self) {
        while !self.is_starting() {
            let Some((connection, request, fds)) = self.queued.pop_front() else { return };
            // The client has closed the connection.
            if matches!(request, Request::Exec { .. }) && seqpacket::is_readable(&connection) {
                continue;
            }
            self.carry_out_now(connection, request, fds);
        }
    }

    fn carry_out_now(&mut self, connection: OwnedFd, request: Request, fds: Vec<OwnedFd>) {
        let result = match request {
            Request::Watch => {
                self.watchers.push(Watcher { connection, is_admitted: false, news: Default::default() });
                return;
            }
            Request::Start(start) => self.start(connection, start),
            Request::Exec { id, process, tty } => self.exec(connection, id, &process, tty, fds),
            Request::Attach { id, stdin } => self.attach(connection, &id, stdin, fds),
            Request::ShareProcesses { users } => match launch::share_processes(users.as_deref()) {
                Ok(helper) => {
                    self.work.push(Work::Share { helper, connection });
                    Ok(())
                }
                Err(error) => Err((connection, error)),
            },
            Request::Delete { id } => {
                self.delete(connection, &id);
                Ok(())
            }
            Request::Kill { id, signal } => {
                tell(&connection, &answer(self.kill(&id, signal)));
                Ok(())
            }
            Request::Resize { id, width, height } => {
                let resized = match self.containers.get(&id) {
                    Some(container) => container.resize(width, height),
                    None => Err(format!("container {id} isn't running")),
                };
                tell(&connection, &answer(resized));
                Ok(())
            }
            Request::Quit => {
                self.quit = self.work.is_empty()
                    && self.queued.is_empty()
                    && self.containers.values().all(|c| c.state.exit.is_some());
                let error = "a container is still running".to_string();
                tell(&connection, &answer(if self.quit { Ok(()) } else { Err(error) }));
                Ok(())
            }
        };
        if let Err((connection, error)) = result {
            tell(&connection, &Answer::Failed { error });
        }
    }

    fn start(&mut self, connection: OwnedFd, start: Start) -> Result<(), (OwnedFd, String)> {
        match Starting::begin(start) {
            Ok(starting) => {
                self.work.push(Work::Start { starting: Box::new(starting), connection, removals: Vec::new() });
                Ok(())
            }
            Err(error) => Err((connection, error)),
        }
    }

    fn exec(
        &mut self,
        connection: OwnedFd,
        container: String,
        process: &str,
        tty: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), (OwnedFd, String)> {
        let launched = match self.containers.get(&container) {
            Some(running) => running.exec(process, tty, fds),
            None => Err(format!("container {container} isn't running")),
        };
        match launched {
            Ok(launch) => {
                self.work.push(Work::Exec { container, launch: Box::new(launch), connection });
                Ok(())
            }
            Err(error) => Err((connection, error)),
        }
    }

    fn attach(
        &mut self,
        connection: OwnedFd,
        id: &str,
        stdin: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), (OwnedFd, String)> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err((connection, format!("container {id} isn't running")));
        };
        if container.state.exit.is_some() {
            return Err((connection, format!("container {id} has ended")));
        }
        let Ok([input, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err((connection, "attach needs three descriptors".into()));
        };
        tell(&connection, &Answer::Done);
        // Descriptors that can't be told not to wait are of no use.
        if let Ok(attached) = Attached::new(Some(input).filter(|_| stdin), [Some(stdout), Some(stderr)], connection) {
            container.attach(attached);
        }
        Ok(())
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

    fn delete(&mut self, connection: OwnedFd, id: &str) {
        let is_start = |request: &Request| matches!(request, Request::Start(start) if start.id == id);
        if let Some(at) = self.queued.iter().position(|(_, request, _)| is_start(request))
            && let Some((starting, ..)) = self.queued.remove(at)
        {
            tell(&starting, &Answer::Failed { error: "it is to be removed".into() });
        }
        for work in &mut self.work {
            if let Work::Start { starting, removals, .. } = work
                && starting.id() == id
            {
                starting.launch.helper.give_up("it is to be removed");
                removals.push(connection);
                return;
            }
        }
        let Some(container) = self.containers.remove(id) else { return tell(&connection, &Answer::Done) };
        self.save();
        self.begin_removal(Box::new(container.into_start()), vec![(connection, Answer::Done)]);
    }

    fn begin_removal(&mut self, start: Box<Start>, answers: Vec<(OwnedFd, Answer)>) {
        match launch::delete(&start) {
            Ok(helper) => self.work.push(Work::Delete { helper, start, answers }),
            Err(error) => {
                answers.iter().for_each(|(connection, _)| tell(connection, &Answer::Failed { error: error.clone() }));
            }
        }
    }

    /// Answers for all work that is done.
    pub fn finish_work(&mut self) {
        // What is done may bring more work, as removing what is left of a container that didn't start.
        while let Some(at) = self.work.iter_mut().position(|work| work.is_done(Instant::now())) {
            match self.work.swap_remove(at) {
                Work::Start { starting, connection, removals } => self.started(*starting, connection, removals),
                Work::Exec { container, launch, connection } => self.executed(container, *launch, connection),
                Work::Share { helper, connection } => tell(
                    &connection,
                    &match helper.outcome() {
                        Ok(pid) => Answer::Started { pid },
                        Err(error) => Answer::Failed { error },
                    },
                ),
                Work::Delete { start, answers, .. } => {
                    let deleted = launch::deleted(&start);
                    for (connection, done) in answers {
                        tell(
                            &connection,
                            &match &deleted {
                                Ok(()) => done,
                                Err(error) => Answer::Failed { error: error.clone() },
                            },
                        );
                    }
                }
            }
        }
        self.carry_out_queued();
        if self.work.is_empty() {
            self.strangers.clear();
        }
    }

    fn started(&mut self, starting: Starting, connection: OwnedFd, removals: Vec<OwnedFd>) {
        match starting.finish() {
            Ok(container) => {
                let pid = container.state.pid;
                self.containers.insert(container.state.id.clone(), container);
                self.save();
                tell(&connection, &Answer::Started { pid });
                self.known(pid);
            }
            Err((start, error)) => {
                let removals = removals.into_iter().map(|connection| (connection, Answer::Done));
                let answers = std::iter::once((connection, Answer::Failed { error })).chain(removals).collect();
                self.begin_removal(start, answers);
            }
        }
    }

    fn executed(&mut self, container: String, launch: Launch, connection: OwnedFd) {
        match launch.finish() {
            Ok(launched) if seqpacket::is_readable(&connection) && !self.strangers.contains_key(&launched.pid) => {
                // Its result isn't wanted any more. It is our child and not reaped yet, so its id is still its own.
                let _ = nix::sys::signal::kill(Pid::from_raw(launched.pid), Signal::SIGKILL);
            }
            Ok(launched) => {
                // By this the daemon can end the process, whoever may have its number by then. An older daemon takes the last one for
                // the terminal.
                let process = rustix::process::Pid::from_raw(launched.pid)
                    .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
                let fds: Vec<RawFd> = process.iter().chain(&launched.terminal).map(|fd| fd.as_raw_fd()).collect();
                let _ = seqpacket::send(&connection, &Answer::Started { pid: launched.pid }, &fds);
                self.executions.insert(launched.pid, Execution { container, connection });
                self.known(launched.pid);
            }
            Err(error) => tell(&connection, &Answer::Failed { error }),
        }
    }

    /// A process is known now that may have ended before.
    fn known(&mut self, pid: i32) {
        if let Some(exit) = self.strangers.remove(&pid) {
            self.ended(pid, exit);
        }
    }
}
