//! What a node's disk says of its pods, for who works on a node that has lost its API. Nothing is changed.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use runtime::ShimClient;

use crate::container_runtime::own::exec_process;
use crate::logs::{LineFilter, Lines};
use crate::state::{ContainerRecord, ContainerState, PodCheckpoint, PodDirs, load};

/// A container as the node wrote it down last.
#[derive(Debug, Clone)]
pub struct OfflineContainer {
    /// Its name.
    pub name: String,
    /// The id of its run; empty before the first.
    pub id: String,
    /// Counts from zero.
    pub attempt: i32,
    /// In words: `running since …`, `exit code 1 at …`, `waiting`.
    pub state: String,
    /// Whether it runs.
    pub runs: bool,
}

/// A pod as the node wrote it down last.
#[derive(Debug, Clone)]
pub struct OfflinePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it is over.
    pub is_finished: bool,
    /// Why the node ended it, if it did.
    pub reason: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its containers by name.
    pub containers: Vec<OfflineContainer>,
}

fn container(name: &str, record: &ContainerRecord) -> OfflineContainer {
    let state = match &record.phase {
        ContainerState::Waiting => "waiting".into(),
        ContainerState::Running { started_at } => format!("running since {started_at}"),
        ContainerState::Terminated(end) if end.signal > 0 => {
            format!("ended by signal {} at {}", end.signal, end.finished_at)
        }
        ContainerState::Terminated(end) => {
            let oom = if end.oom { ", out of memory" } else { "" };
            format!("ended with exit code {}{oom} at {}", end.code, end.finished_at)
        }
    };
    OfflineContainer {
        name: name.into(),
        id: record.id.clone(),
        attempt: record.attempt,
        state,
        runs: matches!(record.phase, ContainerState::Running { .. }),
    }
}

fn pod(uid: String, saved: PodCheckpoint) -> OfflinePod {
    let reason =
        saved.evicted.or(saved.failed.map(|(reason, message)| format!("{reason}: {message}"))).unwrap_or_default();
    OfflinePod {
        namespace: saved.namespace,
        name: saved.name,
        uid,
        is_finished: saved.finished,
        reason,
        ips: saved.sandbox.map(|sandbox| sandbox.ips).unwrap_or_default(),
        containers: saved.containers.iter().map(|(name, record)| container(name, record)).collect(),
    }
}

/// The pods of the agent whose data folder this is, by namespace and name.
///
/// # Errors
/// When the folder can't be read.
pub fn pods(agent_data_dir: &Path) -> io::Result<Vec<OfflinePod>> {
    let folders = std::fs::read_dir(agent_data_dir.join("pods"))?;
    let known = folders
        .flatten()
        .filter_map(|folder| Some(pod(folder.file_name().to_string_lossy().into_owned(), load(&folder.path())?)));
    let mut all: Vec<OfflinePod> = known.collect();
    all.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    Ok(all)
}

fn dirs(agent_data_dir: &Path, run_dir: &Path, uid: &str) -> PodDirs {
    PodDirs { data: agent_data_dir.join("pods").join(uid), run: run_dir.join("pods").join(uid) }
}

/// Writes the log of one run of a container: all that is there, or the last `tail` lines.
///
/// # Errors
/// When there is no such log, or it can't be written.
pub fn write_log(
    agent_data_dir: &Path,
    uid: &str,
    container: &str,
    attempt: i32,
    tail: Option<usize>,
    to: &mut impl Write,
) -> io::Result<()> {
    let path = dirs(agent_data_dir, Path::new(""), uid).log(container, attempt);
    let mut lines = Lines::open(&path, tail)?;
    let mut filter = LineFilter { timestamps: false, since: None, left: None };
    let (mut line, mut out) = (Vec::new(), Vec::new());
    while lines.next(&mut line, false)? {
        out.clear();
        filter.take(&line, &mut out);
        to.write_all(&out)?;
    }
    Ok(())
}

/// Runs a command in a running container, with this process' own streams; returns its exit code.
///
/// # Errors
/// When the container isn't one of this program's own, or its shim doesn't answer.
pub async fn exec(agent_data_dir: &Path, run_dir: &Path, uid: &str, id: &str, command: &[String]) -> io::Result<i32> {
    let dirs = dirs(agent_data_dir, run_dir, uid);
    let file = dirs.container(id).join("process.json");
    let process = exec_process(&file, command, false).map_err(|error| {
        let path = file.display();
        let why = format!("{path} can't be read: {error} (another runtime's containers are entered by crictl)");
        io::Error::new(error.kind(), why)
    })?;
    let stdio = [
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ];
    let execution = ShimClient::at(&dirs.run).exec(id, process.path(), Some(stdio)).await.map_err(io::Error::other)?;
    let exit = execution.wait().await.map_err(io::Error::other)?;
    Ok(exit.code)
}
