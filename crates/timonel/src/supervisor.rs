//! The parent of a role's parts: starts each in a process of its own, and again when it ends.
//!
//! The parent does nothing else: it reads nothing from outside and has one thread, so that nothing can end it but a
//! signal. A part that ends before it was ready once has a wrong flag or lacks something on this machine: it has said
//! so, and the parent ends with its exit code. A part that was ready once is started again for ever, with back-off. Sockets
//! that a part gave it to keep (`Word::Keep`) are handed to the next process of the part: what clients send meanwhile waits in them.
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
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use runtime::seqpacket;
use serde_json::json;

use crate::instance;
use crate::part::{self, Part, Word};

/// The wait before a part is started again, and the longest one, which it grows to while the part goes on ending.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A part that ran longer than this begins with the first wait again.
const LONG_RUN: Duration = Duration::from_secs(60);
/// The time that a part has to end by itself, beyond the time that pods have to end with the machine.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What the parent is told by the role's flags.
pub struct Config {
    /// In the order in which they start; they end in the opposite one. A part starts when the one before it is ready.
    pub parts: Vec<Part>,
    /// Where `parts.json` tells how often each part was restarted and why.
    pub run_dir: PathBuf,
    /// Path below the cgroup root; each part has a cgroup of its own below it.
    pub cgroup: String,
    /// Bytes of memory that each part may use, none for any amount.
    pub memory_limits: BTreeMap<Part, Option<u64>>,
    /// Time that pods have to end when the machine goes down.
    pub shutdown_grace: Duration,
}

/// One part and its process, if it runs.
struct Supervised {
    part: Part,
    /// With our end of the line to it.
    process: Option<(Child, OwnedFd)>,
    /// Whether the part has closed its end.
    is_silent: bool,
    /// The sockets that it gave to be kept, by the names that it gave them.
    kept: Vec<(String, OwnedFd)>,
    started: Instant,
    is_ready: bool,
    /// Whether it was ready in any run.
    was_ready: bool,
    restarts: u64,
    backoff: Duration,
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
            is_silent: false,
            kept: Vec::new(),
            started: Instant::now(),
            is_ready: false,
            was_ready: false,
            restarts: 0,
            backoff: FIRST_BACKOFF,
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
            if let Err(error) = seqpacket::send(&ours, &Word::Kept(names), &sockets) {
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
        (self.started, self.is_ready, self.start_at, self.is_silent) = (Instant::now(), false, None, false);
        Ok(())
    }

    /// Hears what the part has said.
    fn hear(&mut self) {
        let Some((_, line)) = &self.process else { return };
        while !self.is_silent && seqpacket::is_readable(line) {
            match seqpacket::receive::<Word>(line) {
                Ok(Some((Word::Ready, _))) => (self.is_ready, self.was_ready) = (true, true),
                Ok(Some((Word::Keep(names), sockets))) => self.kept = names.into_iter().zip(sockets).collect(),
                Ok(Some((Word::Kept(_), _))) => {}
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    tracing::debug!(%error, "the {} said something that isn't understood", self.part.name());
                }
                Ok(None) | Err(_) => self.is_silent = true,
            }
        }
    }

    /// The status of a process that has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        let (child, _) = self.process.as_mut()?;
        let status = child.try_wait().ok().flatten()?;
        self.hear();
        self.process = None;
        Some(status)
    }

    /// Notes how the process ended and when the next one starts.
    fn back_off(&mut self, status: ExitStatus, memory_exhausted: bool) {
        const CRASHES: [Signal; 5] = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];
        self.crashed = memory_exhausted || CRASHES.iter().any(|signal| status.signal() == Some(*signal as i32));
        if self.started.elapsed() > LONG_RUN {
            self.backoff = FIRST_BACKOFF;
        }
        self.last_end = Some(if memory_exhausted { "memory exhausted".into() } else { status.to_string() });
        self.restarts = self.restarts.saturating_add(1);
        self.start_at = Instant::now().checked_add(self.backoff);
        tracing::error!(
            why = self.last_end, restarts = self.restarts, wait = ?self.backoff,
            "the {} ended; restarting it", self.part.name()
        );
        self.backoff = self.backoff.saturating_mul(2).min(LONGEST_BACKOFF);
    }
}

/// The cgroup of the parts, beside that of the pods, so that neither counts for the other.
pub fn cgroup(pods: &str) -> String {
    format!("{}-parts", pods.trim_end_matches('/'))
}

fn part_cgroup(root: &str, part: Part) -> String {
    format!("{}/{}", root.trim_end_matches('/'), part.name())
}

/// How long the parts of an earlier parent may take to end with it.
const EARLIER_PARTS: Duration = Duration::from_secs(10);

/// Keeps other parents out of the run folder as long as the lock is held, and waits until no part of an earlier parent is left.
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
            Err((file, Errno::EWOULDBLOCK)) if start.elapsed() < EARLIER_PARTS => file,
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
            part.hear();
        }
        if let Some(code) = collect_ended(config, &mut parts) {
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

/// Takes note of parts that have ended. The exit code is that of one that never was ready.
fn collect_ended(config: &Config, parts: &mut [Supervised]) -> Option<ExitCode> {
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

/// Starts what isn't running, if its time has come and what stands before it is ready or was so once.
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

/// Waits for a signal, a part's word or the time of a start. Whether to stop.
fn wait(signals: &SignalFd, parts: &[Supervised]) -> anyhow::Result<bool> {
    let lines = parts.iter().filter(|p| !p.is_silent).filter_map(|p| p.process.as_ref()).map(|(_, line)| line.as_fd());
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

/// Ends the parts, the last started one first.
fn stop(config: &Config, signals: &SignalFd, parts: &mut [Supervised]) {
    for part in parts.iter_mut().rev() {
        let Some(pid) = part.pid() else { continue };
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now().checked_add(config.shutdown_grace.saturating_add(STOP_LIMIT));
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

/// The file in the run folder that tells of the parts.
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
