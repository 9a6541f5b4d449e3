//! What belongs to this instance of several that may be on a machine: its process and its network, written down in its run folder for
//! whoever removes it (`uninstall`).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const PROCESS: &str = "process.json";
const NETWORK: &str = "network.json";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A process, and when it started, in ticks since the machine did: numbers are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    started: u64,
}

impl Process {
    /// The process with this number, if there is one.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = bounded::text(format!("/proc/{pid}/stat"), bounded::MAX_KERNEL_FILE_BYTES).ok()?;
        // The name, in parentheses, may have anything in it; the start is the 22nd field, the 20th after the name.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Process { pid, started })
    }

    pub fn lives(self) -> bool {
        Process::find(self.pid) == Some(self)
    }
}

/// The network in which an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    boot: String,
    namespace: u64,
    /// Whether this machine passed packets on before the agent came.
    pub forwarded: bool,
}

fn namespace_of(process: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|file| file.ino())
}

impl Network {
    /// That of this process.
    fn present() -> Option<Self> {
        let forwarded = bounded::text(FORWARDING, bounded::MAX_KERNEL_FILE_BYTES).is_ok_and(|text| text.trim() == "1");
        Some(Network { boot: runtime::boot_id(), namespace: namespace_of("self")?, forwarded })
    }

    /// Whether this process is in it.
    pub fn is_here(&self) -> bool {
        Network::present().is_some_and(|here| here.boot == self.boot && here.namespace == self.namespace)
    }
}

fn write<T: Serialize>(run_dir: &Path, file: &str, what: &T) -> anyhow::Result<()> {
    let path = run_dir.join(file);
    bounded::durable::create(&path, &serde_json::to_vec(what)?)
        .with_context(|| format!("can't write {}", path.display()))
}

fn read<T: serde::de::DeserializeOwned>(run_dir: &Path, file: &str) -> Option<T> {
    serde_json::from_slice(&bounded::bytes(run_dir.join(file), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()
}

/// Writes down which process this is.
///
/// # Errors
/// Those of the file system.
pub fn record_process(run_dir: &Path) -> anyhow::Result<()> {
    let own = Process::find(std::process::id() as i32).context("/proc doesn't show this process")?;
    write(run_dir, PROCESS, &own)
}

/// Writes down how the network was before anything is changed in it, once for each start of the machine.
///
/// # Errors
/// Those of the file system.
pub fn record_network(run_dir: &Path) -> anyhow::Result<()> {
    if network(run_dir).is_some_and(|network| network.is_here()) {
        return Ok(());
    }
    match Network::present() {
        Some(here) => write(run_dir, NETWORK, &here),
        None => Ok(()),
    }
}

/// The process that works on this run folder, if it lives.
pub fn process(run_dir: &Path) -> Option<Process> {
    read::<Process>(run_dir, PROCESS).filter(|process| process.lives())
}

pub fn network(run_dir: &Path) -> Option<Network> {
    read(run_dir, NETWORK)
}

/// What `/proc` says of a process: its words, and whether it is a server or an agent.
pub struct Described {
    pub words: Vec<String>,
    environment: Vec<u8>,
}

impl Described {
    #[cfg(test)]
    pub fn new(words: Vec<String>) -> Self {
        Described { words, environment: Vec::new() }
    }

    pub fn of(pid: i32) -> Self {
        let bytes = |file: &str| {
            bounded::bytes(format!("/proc/{pid}/{file}"), bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default()
        };
        let words = bytes("cmdline").split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        Described { words, environment: bytes("environ") }
    }

    pub fn program(&self) -> &str {
        self.words.first().and_then(|word| word.rsplit('/').next()).unwrap_or("")
    }

    pub fn is_daemon(&self) -> bool {
        self.program() == "timonel" && matches!(self.words.get(1).map(String::as_str), Some("server" | "agent"))
    }

    /// The value of a flag, or of the variable that stands for it.
    pub fn flag(&self, flag: &str, variable: &str) -> Option<String> {
        let with_value = format!("{flag}=");
        let given = self.words.iter().enumerate().find_map(|(i, word)| {
            if word == flag {
                return self.words.get(i + 1).cloned();
            }
            word.strip_prefix(&with_value).map(String::from)
        });
        let variable = format!("{variable}=");
        let mut set = self.environment.split(|b| *b == 0).map(String::from_utf8_lossy);
        given.or_else(|| set.find_map(|text| text.strip_prefix(&variable).map(String::from)))
    }
}

/// All processes but this one.
pub fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id() as i32;
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok()).filter(move |pid| *pid != own)
}

/// Whether a server or an agent of another instance is in this network.
pub fn others_are_here() -> bool {
    let here = namespace_of("self");
    processes().any(|pid| Described::of(pid).is_daemon() && namespace_of(&pid.to_string()) == here)
}

/// Puts forwarding back to what it was before the agent came.
pub fn restore_forwarding(network: &Network) {
    if !network.forwarded {
        let _ = std::fs::write(FORWARDING, "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let dir = tempfile::tempdir().unwrap();
        record_process(dir.path()).unwrap();
        let own = process(dir.path()).unwrap();
        assert_eq!(own.pid, std::process::id() as i32);
        write(dir.path(), PROCESS, &Process { started: own.started + 1, ..own }).unwrap();
        assert_eq!(process(dir.path()), None, "another one with its number");
    }

    #[test]
    fn the_first_look_at_the_network_stays() {
        let dir = tempfile::tempdir().unwrap();
        record_network(dir.path()).unwrap();
        let first = network(dir.path()).unwrap();
        assert!(first.is_here());
        let changed = Network { forwarded: !first.forwarded, ..first.clone() };
        write(dir.path(), NETWORK, &changed).unwrap();
        record_network(dir.path()).unwrap();
        assert_eq!(network(dir.path()), Some(changed), "what was before the agent came");
        let elsewhere = Network { namespace: first.namespace + 1, ..first };
        assert!(!elsewhere.is_here());
    }

    #[test]
    fn flags_and_variables_say_whose_a_process_is() {
        let words = |line: &str| line.split(' ').map(String::from).collect();
        let of = |line: &str, environment: &str| Described {
            words: words(line),
            environment: environment.replace(' ', "\0").into_bytes(),
        };
        let data = |described: Described| described.flag("--data-dir", "TIMONEL_DATA_DIR");
        assert_eq!(data(of("/x/timonel server --data-dir /a", "")).as_deref(), Some("/a"));
        assert_eq!(data(of("timonel agent --data-dir=/b", "TIMONEL_DATA_DIR=/c")).as_deref(), Some("/b"));
        assert_eq!(data(of("timonel agent", "A=b TIMONEL_DATA_DIR=/c")).as_deref(), Some("/c"));
        assert_eq!(data(of("timonel agent", "A=b")), None);
        assert!(of("/x/timonel agent", "").is_daemon() && !of("/x/timonel kubectl", "").is_daemon());
    }
}
