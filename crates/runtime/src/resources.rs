//! What a container gets of the machine: mounts, and limits of its cgroup.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// Further options, as mount(8) has them (`nosuid`, `nodev`, `noexec` …).
    pub options: Vec<String>,
}

/// A program that is run at a point of a container's life (runtime-spec, "POSIX-platform Hooks").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The point, by the specification's name.
    pub point: &'static str,
    /// The program.
    pub path: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout: Option<u32>,
}

impl Hook {
    /// As a bundle has it.
    pub(crate) fn in_bundle(&self) -> Value {
        let mut hook = json!({"path": self.path, "args": self.args});
        if !self.env.is_empty() {
            hook["env"] = json!(self.env);
        }
        if let Some(timeout) = self.timeout {
            hook["timeout"] = timeout.into();
        }
        hook
    }
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
