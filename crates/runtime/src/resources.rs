//! What a container gets of the machine: mounts, and limits of its cgroup.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A mount from the host into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// A path of the host.
    pub source: PathBuf,
    /// A path of the container.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// Whether what is mounted below is read-only too.
    pub recursive: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: &'static str,
    /// Whether what is there gets the container's label, if that has one.
    pub relabel: bool,
}

/// What a container gets of the machine. Zero means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Weight among others when the processor is short (cgroup v1 shares: 1024 for a core).
    pub cpu_shares: u64,
    /// The most processor time, in thousandths of a core.
    pub cpu_milli: i64,
    /// The most memory, in bytes.
    pub memory_bytes: i64,
    /// The most processes and threads.
    pub pids: i64,
    /// Bytes in huge pages of each size in bytes; what isn't named is left as it is. Only of pods as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub huge_pages: BTreeMap<u64, u64>,
}
