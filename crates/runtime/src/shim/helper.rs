//! Work that the shim does in a process of its own, without waiting for it: what is in a container may stop whoever comes in.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2, read};

/// How much is kept of what a helper says, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// What comes by a pipe until its other end is closed by all.
struct Words {
    from: Option<OwnedFd>,
    text: Vec<u8>,
}

impl Words {
    fn new(from: OwnedFd) -> Self {
        Words { from: Some(from), text: Vec::new() }
    }

    fn take(&mut self) {
        let mut buffer = [0u8; 4096];
        while let Some(from) = &self.from {
            match read(from, &mut buffer) {
                Ok(0) => self.from = None,
                Ok(n) => {
                    let room = MAX_MESSAGE_BYTES - self.text.len();
                    self.text.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.from = None,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// A process that does some work for the shim and ends. Its result is a number, as that of a process that it has started, or why there
/// is none. The errors of a container's own process, which come until that has become another program, belong to it.
pub struct Helper {
    pid: Pid,
    result: Words,
    errors: Words,
    /// By which the processes of this helper are told from others.
    errors_inode: u64,
    deadline: Instant,
    /// Why it was killed before its end.
    given_up: Option<String>,
}

impl Helper {
    /// Forks, and runs `work` in the child.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn start(limit: Duration, work: impl FnOnce(RawFd) -> Result<i32, String>) -> Result<Self, String> {
        let system = |e: nix::Error| format!("can't start a helper: {e}");
        let (result_read, result_write) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
        let (errors_read, errors_write) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
        for end in [&result_read, &errors_read] {
            super::set_nonblocking(end).map_err(system)?;
        }
        let errors_inode = nix::sys::stat::fstat(&errors_read).map_err(system)?.st_ino;
        // SAFETY: the shim has one thread, so the child may do whatever the parent could.
        match unsafe { fork() }.map_err(system)? {
            ForkResult::Child => {
                let details = super::details::gather();
                // Ours alone are without huge pages (`ShimClient::start`); what a container does is its own matter.
                let _ = nix::sys::prctl::set_thp_disable(false);
                let text = match work(errors_write.as_raw_fd()) {
                    Ok(pid) => format!("+{pid}"),
                    Err(error) => format!("-{error}{}", details.text()),
                };
                let _ = nix::unistd::write(&result_write, text.as_bytes());
                // SAFETY: _exit runs nothing of this process' exit handlers, which belong to the shim.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => Ok(Helper {
                pid: child,
                result: Words::new(result_read),
                errors: Words::new(errors_read),
                errors_inode,
                deadline: Instant::now() + limit,
                given_up: None,
            }),
        }
    }

    /// What is to be waited for.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [&self.result, &self.errors].into_iter().filter_map(|words| words.from.as_ref()).map(|fd| fd.as_raw_fd())
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes what it has said so far; whether that is all.
    pub fn is_done(&mut self) -> bool {
        self.result.take();
        self.errors.take();
        self.given_up.is_some() || (self.result.from.is_none() && self.errors.from.is_none())
    }

    /// Kills it and what it has started, and waits for it no longer.
    pub fn give_up(&mut self, why: &str) {
        for pid in children().chain(children_of(self.pid.as_raw())) {
            if holds_pipe(pid, self.errors_inode) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        // It isn't reaped before the shim comes to that, so its number is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        self.given_up = Some(why.into());
    }

    /// The result of a helper that is done.
    pub fn outcome(self) -> Result<i32, String> {
        if let Some(why) = self.given_up {
            return Err(why);
        }
        let error = self.errors.text();
        if !error.is_empty() {
            return Err(error);
        }
        match self.result.text().split_at_checked(1) {
            Some(("+", pid)) => pid.parse().map_err(|_| "the helper answered nonsense".to_string()),
            Some((_, error)) => Err(error.to_string()),
            None => Err("the helper died".into()),
        }
    }
}

/// The children of this process (proc_pid_tid_children(5)).
fn children() -> impl Iterator<Item = i32> {
    children_of(nix::unistd::getpid().as_raw())
}

fn children_of(pid: i32) -> impl Iterator<Item = i32> {
    let text = bounded::text(format!("/proc/{pid}/task/{pid}/children"), bounded::MAX_KERNEL_FILE_BYTES);
    let pids: Vec<i32> = text.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    pids.into_iter()
}

/// Whether a process has an end of the pipe.
fn holds_pipe(pid: i32, inode: u64) -> bool {
    let name = format!("pipe:[{inode}]");
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits as the shim does.
    fn wait(helper: &mut Helper) {
        while !helper.is_done() {
            let fds: Vec<RawFd> = helper.descriptors().collect();
            let mut polled: Vec<libc::pollfd> =
                fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
            // SAFETY: the pointer and the length are those of a vector that lives through the call.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 30_000) };
        }
    }

    fn run(work: impl FnOnce(RawFd) -> Result<i32, String>) -> Result<i32, String> {
        let mut helper = Helper::start(Duration::from_secs(30), work).unwrap();
        wait(&mut helper);
        let pid = helper.pid;
        let outcome = helper.outcome();
        nix::sys::wait::waitpid(pid, None).unwrap();
        outcome
    }

    #[test]
    fn a_helper_has_a_result_or_a_reason() {
        assert_eq!(run(|_| Ok(7)), Ok(7));
        assert_eq!(run(|_| Err("no".into())), Err("no".into()));
        let died = run(|_| {
            let _ = nix::sys::signal::raise(Signal::SIGKILL);
            Ok(1)
        });
        assert_eq!(died, Err("the helper died".into()));
        // However much it says, and whatever it says it with.
        let long = run(|_| Err("x".repeat(1 << 20)));
        assert_eq!(long.unwrap_err().len(), MAX_MESSAGE_BYTES - 1);
    }

    #[test]
    fn a_helper_that_was_stopped_is_given_up_with_what_it_started() {
        let mut helper = Helper::start(Duration::from_secs(30), |_| {
            // SAFETY: this process was just forked and has one thread.
            if let Ok(ForkResult::Child) = unsafe { fork() } {
                let _ = nix::sys::signal::raise(Signal::SIGSTOP);
            }
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
            Ok(1)
        })
        .unwrap();
        let pid = helper.pid;
        let stopped = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, nix::sys::wait::WaitStatus::Stopped(..)), "{stopped:?}");
        let child = children_of(pid.as_raw()).next().unwrap();
        let process = rustix::process::Pid::from_raw(child).unwrap();
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        assert!(!helper.is_done());
        helper.give_up("it took too long");
        assert!(helper.is_done());
        assert_eq!(helper.outcome(), Err("it took too long".into()));
        nix::sys::wait::waitpid(pid, None).unwrap();
        let mut ended = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&process), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut ended, nix::poll::PollTimeout::from(30_000u16)), Ok(1));
    }
}
