//! The supervisor: the parent process of a role's parts, which starts each in a process of its own and restarts it when it ends.
//!
//! The parent does nothing else: it reads no external input and has one thread, so that only a signal ends it. A part that ends before it
//! was ready once has a wrong flag or lacks something on this machine: it has logged what, and the parent exits with its code. A part
//! that was ready once is restarted for ever, with back-off. Sockets
//! that a part gave it to keep (`PartMessage::KeepSockets`) are handed to the next process of the part: what clients send meanwhile waits in them.
//! At SIGTERM or SIGINT the node's part ends first, as pods that end with their machine are still reported to the API.
//! Parts end with their parent, however it ends (`PR_SET_PDEATHSIG`).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use apimachinery::{Backoff, ExponentialBackoff};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use runtime::seqpacket;
use serde_json::json;

use crate::instance;
use crate::part::{self, Part, PartMessage};

/// Back-off of restarts.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(30));
/// A part that ran for longer than this is restarted with the initial back-off again.
const BACKOFF_RESET_PERIOD: Duration = Duration::from_secs(60);
/// Time that a part has to exit, in addition to the shutdown grace period of pods.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Configuration of the supervisor.
pub struct Config {
    /// In the order of their start; they are stopped in reverse order. A part starts when the previous one is ready.
    pub parts: Vec<Part>,
    /// Folder of `parts.json`, which has each part's restarts and their reason.
    pub run_dir: PathBuf,
    /// Parent cgroup of the parts' cgroups, as a path below the cgroup root.
    pub cgroup: String,
    /// Memory limits in bytes; none for no limit.
    pub memory_limits: BTreeMap<Part, Option<u64>>,
    /// Grace period of pods when the machine shuts down.
    pub shutdown_grace: Duration,
}

/// One part and its process, if it runs.
struct Supervised {
    part: Part,
    /// With our end of the line to it.
    process: Option<(Child, OwnedFd)>,
    /// Whether the part has closed its end.
    is_disconnected: bool,
    /// The sockets that it gave to be kept, by the names that it gave them.
    kept: Vec<(String, OwnedFd)>,
    started: Instant,
    is_ready: bool,
    /// Whether it was ready in any run.
    was_ready: bool,
    restarts: u64,
    backoff: Backoff,
    start_at: Option<Instant>,
    last_end: Option<String>,
    crashed: bool,
    /// What the kernel had killed in the part's cgroup before this run.
    oom_kills: u64,
}

impl Supervised {
    fn new(part: Part) -> Self {
        Supervised {
            part,
            process: None,
            is_disconnected: false,
            kept: Vec::new(),
            started: Instant::now(),
            is_ready: false,
            was_ready: false,
            restarts: 0,
            backoff: Backoff::new(BACKOFF),
            start_at: None,
            last_end: None,
            crashed: false,
            oom_kills: 0,
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.process.as_ref().and_then(|(child, _)| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    fn start(&mut self, config: &Config) -> anyhow::Result<()> {
        let (ours, theirs) = seqpacket::pair()?;
        if !self.kept.is_empty() {
            let (names, sockets): (Vec<_>, Vec<_>) = self.kept.iter().map(|(n, s)| (n.clone(), s.as_raw_fd())).unzip();
            if let Err(error) = seqpacket::send(&ours, &PartMessage::KeptSockets(names), &sockets) {
                tracing::warn!(%error, "can't hand sockets to the {}; it makes others", self.part.name());
                self.kept.clear();
            }
        }
        let mut command = Command::new("/proc/self/exe");
        let mut arguments = std::env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments).stdin(theirs).process_group(0);
        command.env(part::PART, self.part.name()).env(part::RESTARTS, self.restarts.to_string());
        command.env(part::PARENT, std::process::id().to_string());
        // An idle part has some megabytes in use: with huge pages it would have three times as much (docs/benchmarks.md).
        command.env("MIMALLOC_ALLOW_THP", "0");
        if self.crashed {
            command.env(part::CRASHED, "1");
        }
        let child = command.spawn().with_context(|| format!("can't start the {}", self.part.name()))?;
        let limit = config.memory_limits.get(&self.part).copied().flatten();
        let cgroup = part_cgroup(&config.cgroup, self.part);
        if let Err(error) = runtime::cgroup::confine(&cgroup, child.id(), limit) {
            tracing::debug!(%error, cgroup, "failed to set the memory limit of the {}", self.part.name());
        }
        self.oom_kills = runtime::cgroup::oom_kills(&cgroup);
        self.process = Some((child, ours));
        (self.started, self.is_ready, self.start_at, self.is_disconnected) = (Instant::now(), false, None, false);
        Ok(())
    }

    /// Receives the part's messages.
    fn receive_messages(&mut self) {
        let Some((_, line)) = &self.process else { return };
        while !self.is_disconnected && seqpacket::is_readable(line) {
            match seqpacket::receive::<PartMessage>(line) {
                Ok(Some((PartMessage::Ready, _))) => (self.is_ready, self.was_ready) = (true, true),
                Ok(Some((PartMessage::KeepSockets(names), sockets))) => {
                    self.kept = names.into_iter().zip(sockets).collect()
                }
                Ok(Some((PartMessage::KeptSockets(_), _))) => {}
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    tracing::debug!(%error, "the {} said something that isn't understood", self.part.name());
                }
                Ok(None) | Err(_) => self.is_disconnected = true,
            }
        }
    }

    /// The status of a process that has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        let (child, _) = self.process.as_mut()?;
        let status = child.try_wait().ok().flatten()?;
        self.receive_messages();
        self.process = None;
        Some(status)
    }

    /// Records how the process ended, and schedules its restart.
    fn back_off(&mut self, status: ExitStatus, memory_exhausted: bool) {
        const CRASHES: [Signal; 5] = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];
        self.crashed = memory_exhausted || CRASHES.iter().any(|signal| status.signal() == Some(*signal as i32));
        if self.started.elapsed() > BACKOFF_RESET_PERIOD {
            self.backoff.reset();
        }
        let wait = self.backoff.failed();
        self.last_end = Some(if memory_exhausted { "memory exhausted".into() } else { status.to_string() });
        self.restarts = self.restarts.saturating_add(1);
        self.start_at = Instant::now().checked_add(wait);
        tracing::error!(
            why = self.last_end,
            restarts = self.restarts,
            ?wait,
            "the {} ended; restarting it",
            self.part.name()
        );
    }
}

/// The cgroup of the parts, beside that of the pods, so that neither counts for the other.
pub fn cgroup(pods: &str) -> String {
    format!("{}-parts", pods.trim_end_matches('/'))
}

fn part_cgroup(root: &str, part: Part) -> String {
    format!("{}/{}", root.trim_end_matches('/'), part.name())
}

/// Timeout for the parts of an earlier parent to exit.
const EARLIER_PARTS_TIMEOUT: Duration = Duration::from_secs(10);

/// Locks the run folder against other parents, and waits until all parts of an earlier parent have exited.
fn lock(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(run_dir).with_context(|| format!("can't make {}", run_dir.display()))?;
    let own = lock_alone(&run_dir.join("parent.lock"))?;
    drop(lock_alone(&part::lock_file(run_dir))?);
    Ok(own)
}

fn lock_alone(path: &Path) -> anyhow::Result<Flock<File>> {
    let mut file = File::create(path).with_context(|| format!("can't make {}", path.display()))?;
    let start = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if start.elapsed() < EARLIER_PARTS_TIMEOUT => file,
            Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!(
                "another timonel server or agent has locked {}: stop it, or choose another folder with --run-dir",
                path.display()
            ),
            Err((_, error)) => return Err(error).with_context(|| format!("can't lock {}", path.display())),
        };
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the parts until SIGTERM or SIGINT, or until one can't start at all.
///
/// # Errors
/// When another parent has the run folder or it can't be written, signals can't be received or a process can't be started.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let _lock = lock(&config.run_dir)?;
    instance::record_process(&config.run_dir)?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut parts: Vec<Supervised> = config.parts.iter().map(|part| Supervised::new(*part)).collect();
    loop {
        for part in &mut parts {
            part.receive_messages();
        }
        if let Some(code) = reap_parts(config, &mut parts) {
            stop(config, &signals, &mut parts);
            return Ok(code);
        }
        start_due(config, &mut parts)?;
        write_state(&config.run_dir, &parts);
        if wait(&signals, &parts)? {
            stop(config, &signals, &mut parts);
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Reaps parts that have ended. Returns the exit code of one that was never ready.
fn reap_parts(config: &Config, parts: &mut [Supervised]) -> Option<ExitCode> {
    for part in parts {
        let Some(status) = part.ended() else { continue };
        if !part.was_ready {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
            return Some(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        let cgroup = part_cgroup(&config.cgroup, part.part);
        let killed = runtime::cgroup::oom_kills(&cgroup) > part.oom_kills;
        let exhausted = killed && status.signal() == Some(Signal::SIGKILL as i32);
        part.back_off(status, exhausted);
    }
    None
}

/// Starts parts that are due, if the part before them is ready or was so once.
fn start_due(config: &Config, parts: &mut [Supervised]) -> anyhow::Result<()> {
    let now = Instant::now();
    for i in 0..parts.len() {
        let waits = parts.iter().take(i).any(|before| !before.was_ready);
        let Some(part) = parts.get_mut(i).filter(|part| part.process.is_none() && !waits) else { continue };
        if part.start_at.is_none_or(|at| at <= now) {
            part.start(config)?;
        }
    }
    Ok(())
}

/// Waits for a signal, a part's message or the time of a restart. Returns whether to stop.
fn wait(signals: &SignalFd, parts: &[Supervised]) -> anyhow::Result<bool> {
    let lines =
        parts.iter().filter(|p| !p.is_disconnected).filter_map(|p| p.process.as_ref()).map(|(_, line)| line.as_fd());
    let mut watched: Vec<PollFd<'_>> =
        std::iter::once(signals.as_fd()).chain(lines).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let next = parts.iter().filter_map(|p| p.start_at).min();
    let wait = next.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let timeout = wait.map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut is_over = false;
    while let Some(signal) = signals.read_signal()? {
        is_over |= signal.ssi_signo != Signal::SIGCHLD as u32;
    }
    Ok(is_over)
}

/// Stops the parts in reverse order.
fn stop(config: &Config, signals: &SignalFd, parts: &mut [Supervised]) {
    for part in parts.iter_mut().rev() {
        let Some(pid) = part.pid() else { continue };
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now().checked_add(config.shutdown_grace.saturating_add(STOP_TIMEOUT));
        while part.process.is_some() && part.ended().is_none() {
            if deadline.is_some_and(|at| at <= Instant::now()) {
                tracing::error!("the {} didn't exit in time; killing it", part.part.name());
                let _ = kill(pid, Signal::SIGKILL);
            }
            let mut watched = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut watched, PollTimeout::from(1000_u16));
            while matches!(signals.read_signal(), Ok(Some(_))) {}
        }
        runtime::cgroup::remove(&part_cgroup(&config.cgroup, part.part));
    }
    runtime::cgroup::remove(&config.cgroup);
}

/// The file with the state of the parts.
pub fn state_file(run_dir: &Path) -> PathBuf {
    run_dir.join("parts.json")
}

/// Writes `parts.json`: `{"node": {"pid": 7, "restarts": 0, "ready": true, "lastEnd": null}, …}`. It is for people and for
/// `timonel check` alone, so an error is only logged.
fn write_state(run_dir: &Path, parts: &[Supervised]) {
    let of = |p: &Supervised| json!({"pid": p.pid().map(Pid::as_raw), "restarts": p.restarts, "ready": p.is_ready, "lastEnd": p.last_end});
    let state: serde_json::Map<String, serde_json::Value> =
        parts.iter().map(|p| (p.part.name().to_string(), of(p))).collect();
    let path = state_file(run_dir);
    if let Err(error) = bounded::durable::create(&path, serde_json::Value::from(state).to_string().as_bytes()) {
        tracing::debug!(%error, "failed to write {}", path.display());
    }
}
