//! A role's parts, each in a process of its own, so that a crash of one doesn't affect the others (`supervisor` is the parent process).
//!
//! A part is this same binary with the same arguments; the environment says which part it is. Its standard input is
//! the line to its parent (`PartMessage`): the part says when it is ready, and which sockets are to outlive it.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use informer::Quarantine;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use runtime::seqpacket;
use serde::{Deserialize, Serialize};

/// A part of a role, which runs in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Store, API, controllers and scheduler.
    ControlPlane,
    /// Kubelet, container runtime, images, service proxy, DNS and ingress of this machine: what touches what pods
    /// and registries shape.
    Node,
}

/// Names the part that a process is.
pub const PART: &str = "TIMONEL_PART";
/// How often the part was started before, by this parent.
pub const RESTARTS: &str = "TIMONEL_PART_RESTARTS";
/// Set when the part's last process ended by a crash or because it had no memory left.
pub const CRASHED: &str = "TIMONEL_PART_CRASHED";
/// The parent's process ID.
pub const PARENT: &str = "TIMONEL_PART_PARENT";

/// Held by a part as long as it lives: a new parent waits for that, so that no port and no file has two owners.
pub struct Settled {
    _lock: Flock<File>,
}

impl Part {
    /// The part that this process is; none when it is the parent, or no part of a role at all.
    pub fn own() -> Option<Part> {
        let name = std::env::var(PART).ok()?;
        [Part::ControlPlane, Part::Node].into_iter().find(|part| part.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Part::ControlPlane => "control-plane",
            Part::Node => "node",
        }
    }

    /// The kernel's out-of-memory killer takes processes with higher scores first: pods, then the node's part, then
    /// the control plane. The range is -1000 (never) to 1000 (proc(5)).
    fn oom_score(self) -> i32 {
        match self {
            Part::ControlPlane => -998,
            Part::Node => -900,
        }
    }

    /// Sets this process up as the part: it ends with its parent, has its own score and as many files as it may have.
    ///
    /// # Errors
    /// When the parent has ended already.
    pub fn settle(self, run_dir: &Path) -> anyhow::Result<Settled> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent takes signals from a descriptor; what it blocks for that is inherited.
        SigSet::all().thread_unblock()?;
        let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
        anyhow::ensure!(parent == Some(nix::unistd::getppid().as_raw()), "the parent of this process has ended");
        // Without CAP_SYS_RESOURCE a score can't be lowered; then the parts have that of their parent.
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", self.oom_score().to_string()) {
            tracing::debug!(%error, part = self.name(), "failed to set the OOM score");
        }
        raise_file_limit();
        count_restarts(self);
        let file = File::create(lock_file(run_dir))?;
        let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, error)| error)?;
        Ok(Settled { _lock: lock })
    }
}

/// The file that the parts of a role have locked together as long as they live.
pub fn lock_file(run_dir: &Path) -> PathBuf {
    run_dir.join("parts.lock")
}

/// Raises the soft limit of open files to the hard one.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::debug!(%error, "failed to raise the limit of open files");
    }
}

/// Puts `timonel_part_restarts` into the process' metrics: how often this part was started again by its parent.
fn count_restarts(part: Part) {
    let restarts = std::env::var(RESTARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let opts = prometheus::Opts::new("timonel_part_restarts", "How often this part of the role was started again")
        .const_label("part", part.name());
    if let Ok(gauge) = prometheus::IntGauge::with_opts(opts) {
        gauge.set(restarts);
        let _ = prometheus::default_registry().register(Box::new(gauge));
    }
}

/// The record and the suspects of a part's objects; `data` is the folder of the part's own data, where its tasks are told of from now on, too.
pub fn quarantine(part: Part, run_dir: &Path, data: &Path) -> anyhow::Result<Quarantine> {
    let record = run_dir.join(format!("{}.handling", part.name()));
    let follows_crash = std::env::var_os(CRASHED).is_some();
    std::fs::create_dir_all(data).with_context(|| format!("can't make {}", data.display()))?;
    tasks::set_report_file(data.join(TASKS));
    Quarantine::open(&record, &data.join(QUARANTINE), follows_crash)
        .with_context(|| format!("can't write {} or {QUARANTINE} in {}", record.display(), data.display()))
}

/// The file in a part's data folder that names quarantined objects.
pub const QUARANTINE: &str = "quarantine.json";

/// The file in a part's data folder that names tasks that are started again and again.
pub const TASKS: &str = "tasks.json";

/// What a part and its parent say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PartMessage {
    /// From a part: it is ready.
    Ready,
    /// From a part: the parent keeps these sockets, and no others, for the part's next process.
    #[serde(rename = "keep")]
    KeepSockets(Vec<String>),
    /// From the parent, as its first message: the sockets that the previous process left.
    #[serde(rename = "kept")]
    KeptSockets(Vec<String>),
}

fn line() -> std::io::Result<OwnedFd> {
    std::io::stdin().as_fd().try_clone_to_owned()
}

fn say(word: &PartMessage, sockets: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    seqpacket::send(&line()?, word, &sockets)
}

/// Tells the parent that this part is ready: it has its ports and serves. A process without a parent tells nobody.
pub fn ready() {
    if Part::own().is_some()
        && let Err(error) = say(&PartMessage::Ready, &[])
    {
        tracing::warn!(%error, "failed to report to the parent process that this part is ready");
    }
}

/// The sockets that the process of this part before this one had kept. They are given once.
pub fn kept() -> Vec<(String, OwnedFd)> {
    let heard = line().and_then(|line| {
        if Part::own().is_none() || !seqpacket::is_readable(&line) {
            return Ok(None);
        }
        seqpacket::receive::<PartMessage>(&line)
    });
    match heard {
        Ok(Some((PartMessage::KeptSockets(names), sockets))) => names.into_iter().zip(sockets).collect(),
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "the sockets of the process before this one are lost");
            Vec::new()
        }
    }
}

/// Has the parent keep these sockets, and no others, for the next process of this part.
pub fn keep(sockets: &[(String, BorrowedFd<'_>)]) {
    if Part::own().is_none() {
        return;
    }
    let (names, sockets): (Vec<_>, Vec<_>) = sockets.iter().cloned().unzip();
    if let Err(error) = say(&PartMessage::KeepSockets(names), &sockets) {
        tracing::warn!(%error, "the parent process can't keep sockets of this part");
    }
}
