//! What daemon and shim say to each other: one JSON message per packet, file descriptors beside it.
//!
//! The protocol has a version, as a new daemon meets shims that an older one started. Fields are only ever added, with
//! a default; a shim ignores what it doesn't know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::users::Users;

/// The argument by which this program is a shim: `timonel __shim STATE_FILE`.
pub const SHIM_ARGUMENT: &str = "__shim";

/// The version of the protocol that this program speaks.
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
    Kill {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Removes what is left of a container, killing it if need be. Answered by `Done` or `Failed`.
    Delete {
        /// The container.
        id: String,
    },
    /// Runs a process in a container. With descriptors: stdin, stdout, stderr; with `tty` none come, and `Started`
    /// brings the terminal. Answered by `Started` or `Failed`, then by `Exited`.
    Exec {
        /// The container.
        id: String,
        /// A file with the OCI process.
        process: String,
        /// Whether it gets a terminal.
        tty: bool,
    },
    /// Connects to a running container. With descriptors: stdin (read end), stdout and stderr (write ends). Answered by
    /// `Done` or `Failed`, then by `Exited`.
    Attach {
        /// The container.
        id: String,
        /// Whether the client types.
        stdin: bool,
    },
    /// Sets the size of a container's terminal.
    Resize {
        /// The container.
        id: String,
        /// In characters.
        width: u16,
        /// In characters.
        height: u16,
    },
    /// Makes a process namespace whose first process does nothing but bury the dead, for containers that share it.
    /// Answered by `Started` or `Failed`.
    ShareProcesses {
        /// The user namespace that it belongs to, if that isn't the machine's.
        #[serde(default)]
        users: Option<PathBuf>,
    },
    /// Ends the shim, if it has no running container.
    Quit,
}

/// What a shim needs to start a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// The container's id.
    pub id: String,
    /// Folder with `config.json`.
    pub bundle: String,
    /// Folder for libcontainer's own state.
    pub root: String,
    /// File in CRI log format.
    pub log: String,
    /// Whether it has a terminal.
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
    /// File with the container's own seccomp profile.
    #[serde(default)]
    pub profile: Option<String>,
    /// The pod's users, if they are its own.
    #[serde(default)]
    pub users: Option<Users>,
    /// The machine's user who stands for the container's; streams are his.
    #[serde(default)]
    pub owner: u32,
}

/// From the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// All that the shim has.
    State {
        /// The version of the protocol that the shim speaks.
        version: u32,
        /// Its containers, those that have ended, too.
        containers: Vec<ContainerState>,
    },
    /// Something was started.
    Started {
        /// Its process.
        pid: i32,
    },
    /// What was asked for is done.
    Done,
    /// It can't be done.
    Failed {
        /// Why.
        error: String,
    },
    /// A container or a process has ended.
    Exited {
        /// The container.
        id: String,
        /// How it ended.
        exit: Exit,
    },
}

/// A container as its shim knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// RFC 3339.
    pub started_at: String,
    /// How it ended, if it has.
    #[serde(default)]
    pub exit: Option<Exit>,
}

/// How a container or a process has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell has it: 128 + signal for a killed process.
    pub code: i32,
    /// The signal that killed it, or 0.
    #[serde(default)]
    pub signal: i32,
    /// Whether the kernel killed it for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// RFC 3339.
    pub at: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What daemons and shims of version 1 say, word for word. They meet any later ones, so no line here ever changes.
    fn version_1() -> (Vec<Value>, Vec<Value>) {
        let requests = vec![
            json!({"do": "watch"}),
            json!({"do": "start", "id": "c1", "bundle": "/b", "root": "/r", "log": "/l"}),
            json!({"do": "kill", "id": "c1", "signal": 15}),
            json!({"do": "delete", "id": "c1"}),
            json!({"do": "exec", "id": "c1", "process": "/p.json", "tty": false}),
            json!({"do": "attach", "id": "c1", "stdin": true}),
            json!({"do": "resize", "id": "c1", "width": 80, "height": 24}),
            json!({"do": "quit"}),
        ];
        let exit = json!({"code": 137, "at": "2026-01-01T00:00:00Z"});
        let answers = vec![
            json!({"is": "state", "version": 1, "containers": [
                {"id": "c1", "pid": 7, "started_at": "2026-01-01T00:00:00Z"},
                {"id": "c2", "pid": 8, "started_at": "2026-01-01T00:00:00Z", "exit": exit}]}),
            json!({"is": "started", "pid": 7}),
            json!({"is": "done"}),
            json!({"is": "failed", "error": "no"}),
            json!({"is": "exited", "id": "c1", "exit": exit}),
        ];
        (requests, answers)
    }

    /// Whether `text` says all that `old` says.
    fn says(text: &Value, old: &Value) -> bool {
        match (text, old) {
            (Value::Object(text), Value::Object(old)) => {
                old.iter().all(|(key, value)| text.get(key).is_some_and(|text| says(text, value)))
            }
            (Value::Array(text), Value::Array(old)) => {
                text.len() == old.len() && text.iter().zip(old).all(|(text, old)| says(text, old))
            }
            _ => text == old,
        }
    }

    #[test]
    fn what_version_1_said_is_understood_and_said_still() {
        let (requests, answers) = version_1();
        for old in requests {
            let read: Request = serde_json::from_value(old.clone()).unwrap();
            assert!(says(&serde_json::to_value(&read).unwrap(), &old), "{read:?}");
        }
        for old in answers {
            let read: Answer = serde_json::from_value(old.clone()).unwrap();
            assert!(says(&serde_json::to_value(&read).unwrap(), &old), "{read:?}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let (requests, answers) = version_1();
        for mut later in requests {
            later["later"] = json!({"any": ["thing"]});
            assert!(serde_json::from_value::<Request>(later).is_ok());
        }
        for mut later in answers {
            later["later"] = json!(7);
            assert!(serde_json::from_value::<Answer>(later).is_ok());
        }
    }
}
