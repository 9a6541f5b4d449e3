//! One machine of a test cluster: a network namespace, folders, a cgroup, and the processes in them.

mod commands;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::binaries::beside_test;
use crate::containerd::Containerd;

pub use commands::{Beside, Output};

/// How `timeout(1)` tells that the time of a command was over.
pub(crate) const TIMED_OUT: i32 = 124;

/// Waits this long for what should happen within a few seconds, be it of a command or of the cluster; only a broken test takes it all.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// One machine of a test cluster.
pub struct Node {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) address_v6: String,
    pub(crate) folder: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) process: Option<Child>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Who runs the pods, if that isn't timonel itself.
    pub containerd: Option<Containerd>,
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} can't be run"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The network of machines on one switch, and that of one behind a router (RFC 5737), less the last number.
pub(crate) const SWITCHED: &str = "192.0.2";

pub(crate) const ROUTED: &str = "198.51.100";

/// The same of IPv6 (RFC 3849). No router leads from one to the other.
pub(crate) const SWITCHED_V6: &str = "2001:db8:1";

pub(crate) const ROUTED_V6: &str = "2001:db8:2";

/// The binary under test: `TIMONEL_BIN`, or beside the test's own.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIMONEL_BIN") {
        return Ok(path.into());
    }
    beside_test("timonel")
}

/// Does something in the network that a file pins.
///
/// # Errors
/// When the network can't be entered.
pub fn inside<T: Send>(network: &Path, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let namespace = std::fs::File::open(network)?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        inside.join().map_err(|_| anyhow::anyhow!("what was done in another network failed"))?
    })
}

/// Eviction thresholds of every test's nodes but those that test them. The defaults are shares of a disk: of a large disk
/// that others have filled, gigabytes are left for tests that need megabytes.
const EVICTION_HARD: &str = "--eviction-hard=memory.available<100Mi,nodefs.available<512Mi,nodefs.inodesFree<1%";

impl Node {
    pub(crate) fn new(
        id: &str,
        number: u32,
        name: &str,
        folder: &Path,
        switch: &str,
        network: &str,
    ) -> anyhow::Result<Self> {
        let namespace = format!("{id}-{number}");
        let folder = folder.join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        run("ip", &["netns", "add", &namespace])?;
        let node = Node {
            name: name.into(),
            namespace,
            address: format!("{network}.{number}"),
            address_v6: format!("{}::{number}", if network == ROUTED { ROUTED_V6 } else { SWITCHED_V6 }),
            folder,
            binary: binary()?,
            process: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            containerd: None,
        };
        let port = format!("p{number}");
        run(
            "ip",
            &["-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &node.namespace],
        )?;
        if network == ROUTED {
            run("ip", &["-n", switch, "addr", "add", &format!("{network}.254/24"), "dev", &port])?;
            run("ip", &["-n", switch, "link", "set", &port, "up"])?;
        } else {
            run("ip", &["-n", switch, "link", "set", &port, "master", "br0", "up"])?;
        }
        let (address, address_v6) = (format!("{}/24", node.address()), format!("{}/64", node.address_v6()));
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["addr", "add", &address, "dev", "eth0"],
            &["addr", "add", &address_v6, "dev", "eth0", "nodad"],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "via", &format!("{network}.254")],
        ] {
            let mut all = vec!["-n", node.namespace.as_str()];
            all.extend(arguments);
            run("ip", &all)?;
        }
        Ok(node)
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn address_v6(&self) -> String {
        self.address_v6.clone()
    }

    /// The file that stands for this machine's network namespace.
    pub fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Does something that makes sockets: they are in this machine's network.
    ///
    /// # Errors
    /// When the network can't be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        inside(&self.network(), work)
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where archives of images lie that this machine is to have from the start.
    pub fn images(&self) -> PathBuf {
        self.folder.join("data/agent/images")
    }

    /// Adds a flag with a file in this machine's folder that has `content`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn file_flag(&mut self, flag: &str, name: &str, content: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        self.arguments.extend([flag.to_string(), path.display().to_string()]);
        Ok(())
    }

    /// Puts programs before those of the machine, for the process of this one: names and scripts.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn programs(&mut self, programs: &[(&str, &str)]) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = self.folder.join("bin");
        std::fs::create_dir_all(&folder)?;
        for (name, script) in programs {
            let path = folder.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        self.environment = vec![("PATH".into(), format!("{}:{path}", folder.display()))];
        Ok(())
    }

    /// Sets a variable of the process' environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(present, _)| present != name);
        self.environment.push((name.into(), value.into()));
    }

    /// On a file system in memory where this machine has one, as `/run` is on users' machines.
    pub fn run_dir(&self) -> String {
        let memory = ["/run", "/dev/shm"].into_iter().find(|path| {
            nix::sys::statfs::statfs(*path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
        });
        match memory {
            Some(path) => format!("{path}/timonel-{}", self.namespace),
            None => self.folder.join("run").display().to_string(),
        }
    }

    /// The cgroup of all pods of this machine.
    pub fn cgroup(&self) -> String {
        format!("timonel-{}", self.namespace)
    }

    /// The arguments that every process of this machine has, with the `flags` of its test.
    pub(crate) fn common(&self, role: &str, flags: &[&str]) -> Vec<String> {
        let text = |path: &str| self.folder.join(path).display().to_string();
        [
            role,
            "--data-dir",
            &text("data"),
            "--run-dir",
            &self.run_dir(),
            "--node-name",
            &self.name,
            "--node-ip",
            // Clusters take of it what they have use for.
            &format!("{},{}", self.address(), self.address_v6()),
            "--cgroup-root",
            &self.cgroup(),
            "--private-registry",
            &text("registries.yaml"),
        ]
        .into_iter()
        .chain(flags.iter().copied())
        .chain((!flags.iter().any(|flag| flag.starts_with("--eviction-hard"))).then_some(EVICTION_HARD))
        .map(String::from)
        .collect()
    }

    pub(crate) fn put_images(&mut self) -> anyhow::Result<()> {
        // Any test may be run on another runtime.
        match std::env::var("TEST_RUNTIME").as_deref() {
            _ if self.containerd.is_some() => Ok(()),
            Ok("containerd") => self.use_containerd(),
            _ => crate::images::build(&self.images()),
        }
    }

    /// Leaves pods to a containerd of this machine's own.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn use_containerd(&mut self) -> anyhow::Result<()> {
        let archives = self.images();
        crate::images::build(&archives)?;
        // As the log says: another's runtime gets the built-in image by its own tools.
        let built_in = std::fs::File::create(archives.join("built-in.tar"))?;
        let status = Command::new(&self.binary).args(["image", "built-in"]).stdout(built_in).status()?;
        anyhow::ensure!(status.success(), "the built-in image can't be written");
        let containerd = Containerd::start(self, &archives)?;
        #[allow(clippy::disallowed_methods, reason = "these are the test's own files")]
        std::fs::remove_dir_all(&archives)?;
        self.arguments.extend(["--container-runtime-endpoint".into(), containerd.endpoint()]);
        self.containerd = Some(containerd);
        Ok(())
    }
}
