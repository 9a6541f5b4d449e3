//! What daemon and shim say to each other: one JSON message per packet, file descriptors beside it.
//!
//! The protocol has a version, as a new daemon meets shims that an older one started. Fields are only ever added, with
//! a default; a shim ignores what it doesn't know.

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;

/// From the daemon. Every connection carries one request, except `Watch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Answered by `State`, then by an `Exited` for every container that ends, as long as the connection is open.
    Watch,
    /// Starts a container from the bundle. Answered by `Started` or `Failed`.
    Start(Start),
    /// Sends a signal to a container's first process. Answered by `Done` or `Failed`.
    Kill { id: String, signal: i32 },
    /// Removes what is left of a container, killing it if need be. Answered by `Done` or `Failed`.
    Delete { id: String },
    /// Runs a process in a container. With descriptors: stdin, stdout, stderr; with `tty` none come, and `Started`
    /// brings the terminal. Answered by `Started` or `Failed`, then by `Exited`.
    Exec { id: String, process: String, tty: bool },
    /// Connects to a running container. With descriptors: stdin (read end), stdout and stderr (write ends). Answered by
    /// `Done` or `Failed`, then by `Exited`.
    Attach { id: String, stdin: bool },
    /// Sets the size of a container's terminal.
    Resize { id: String, width: u16, height: u16 },
    /// Makes a process namespace whose first process does nothing but bury the dead, for containers that share it.
    /// Answered by `Started` or `Failed`.
    ShareProcesses,
    /// Ends the shim, if it has no running container.
    Quit,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    pub id: String,
    /// Folder with `config.json`.
    pub bundle: String,
    /// Folder for libcontainer's own state.
    pub root: String,
    /// File in CRI log format.
    pub log: String,
    #[serde(default)]
    pub tty: bool,
    /// Whether stdin stays open for attach.
    #[serde(default)]
    pub stdin: bool,
    /// Whether stdin is closed when the first attach ends.
    #[serde(default)]
    pub stdin_once: bool,
    /// Path of the container's cgroup below a controller's root, to tell OOM kills.
    #[serde(default)]
    pub cgroup: String,
    /// The container's capabilities, if it runs under the default seccomp profile.
    #[serde(default)]
    pub confined: Option<Vec<String>>,
}

/// From the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    State { version: u32, containers: Vec<ContainerState> },
    Started { pid: i32 },
    Done,
    Failed { error: String },
    Exited { id: String, exit: Exit },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub pid: i32,
    /// RFC 3339.
    pub started_at: String,
    #[serde(default)]
    pub exit: Option<Exit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell has it: 128 + signal for a killed process.
    pub code: i32,
    #[serde(default)]
    pub signal: i32,
    #[serde(default)]
    pub oom: bool,
    /// RFC 3339.
    pub at: String,
}
