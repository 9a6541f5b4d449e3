//! One machine of a test cluster: a network namespace, folders, a cgroup, and the processes in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::binaries::beside_test;
use crate::containerd::Containerd;

/// How `timeout(1)` tells that the time of a command was over.
pub(crate) const TIMED_OUT: i32 = 124;

/// Waits this long for what should happen within a few seconds, be it of a command or of the cluster; only a broken test takes it all.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

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

/// A command that runs beside a test; dropping it ends it.
pub struct Beside {
    pub(crate) process: Child,
    pub(crate) lines: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Beside {
    /// The lines that it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Its exit code, once it has ended.
    pub fn code(&mut self) -> Option<i32> {
        self.process.try_wait().ok().flatten().map(|s| s.code().unwrap_or(-1))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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

    /// Starts the process again if it has ended by itself, as a service manager does.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn revive(&mut self) -> anyhow::Result<()> {
        let has_ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
        if has_ended { self.spawn() } else { Ok(()) }
    }

    /// Asks the process to end, and waits until it has.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the process doesn't run")?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id() as i32), nix::sys::signal::Signal::SIGTERM)?;
        process.wait()?;
        Ok(())
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

    pub(crate) fn common(&self, role: &str) -> Vec<String> {
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
        .map(String::from)
        .into()
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
        let containerd = Containerd::start(self, &archives)?;
        #[allow(clippy::disallowed_methods, reason = "these are the test's own files")]
        std::fs::remove_dir_all(&archives)?;
        self.arguments.extend(["--container-runtime-endpoint".into(), containerd.endpoint()]);
        self.containerd = Some(containerd);
        Ok(())
    }

    /// Starts the process (again).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(&self.binary)
            .args(&self.arguments)
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.process = Some(child);
        Ok(())
    }

    /// Kills the process and its parts as a crash would (SIGKILL), and nothing that they started.
    pub fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            let parts = self.parts();
            let _ = process.kill();
            let _ = process.wait();
            // They end with their parent, but not in the same instant.
            let lives = |pid: &u32| Path::new("/proc").join(pid.to_string()).exists();
            let start = Instant::now();
            while parts.values().any(lives) && start.elapsed() < READY_TIMEOUT {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// The processes of the role's parts (`control-plane`, `node`), by name.
    pub fn parts(&self) -> BTreeMap<String, u32> {
        let text = std::fs::read(Path::new(&self.run_dir()).join("parts.json")).unwrap_or_default();
        let parts: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap_or_default();
        let pid = |part: &Value| part["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        parts.iter().filter_map(|(name, part)| Some((name.clone(), pid(part)?))).collect()
    }

    /// Does to this machine what a power cut and a new start do: no process, mount, namespace, interface, rule and cgroup is
    /// left, and nothing of what is in memory. The process must be [spawned](Self::spawn) again.
    ///
    /// # Errors
    /// When something resists.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.crash();
        for pid in self.shims().into_iter().chain(self.contained()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        // The last mounted goes first, as others may be below it.
        for point in self.mount_points().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", &point]).stderr(Stdio::null()).status();
        }
        let start = Instant::now();
        while !self.remove_cgroups() {
            anyhow::ensure!(start.elapsed() < READY_TIMEOUT, "cgroups of {} can't be removed", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        #[allow(clippy::disallowed_methods, reason = "the server has removed what containers left there")]
        let _ = std::fs::remove_dir_all(self.run_dir());
        let nft = ["nft", "flush", "ruleset"].map(String::from);
        anyhow::ensure!(self.run(&nft, "").code == 0, "the rules can't be removed");
        let links = self.run(&["ip", "-o", "link"].map(String::from), "").stdout;
        let names = links.lines().filter_map(|l| l.split(": ").nth(1)?.split('@').next());
        for name in names.filter(|n| n.starts_with("tp") || n.starts_with("timonel")) {
            let _ = self.run(&["ip", "link", "del", name].map(String::from), "");
        }
        Ok(())
    }

    /// All processes of the role: the parent and its parts.
    pub fn processes(&self) -> Vec<u32> {
        self.pid().into_iter().chain(self.parts().into_values()).collect()
    }

    /// The parent of the role's parts.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Runs a command on this machine.
    pub fn run(&self, command: &[String], input: &str) -> Output {
        use std::io::Write as _;
        let spawned = Command::new("timeout")
            .arg(READY_TIMEOUT.as_secs().to_string())
            .arg("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            return Output { code: -1, stdout: String::new(), stderr: "it can't be started".into() };
        };
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        match child.wait_with_output() {
            Ok(output) => Output {
                code: output.status.code().unwrap_or(-1),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
            Err(error) => Output { code: -1, stdout: String::new(), stderr: error.to_string() },
        }
    }

    /// Starts a command on this machine that runs beside the test.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn beside(&self, command: &[String]) -> anyhow::Result<Beside> {
        use std::io::BufRead as _;
        let mut process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (to, stdout) = (lines.clone(), process.stdout.take().context("it has no output")?);
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                to.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
            }
        });
        Ok(Beside { process, lines })
    }

    /// Runs the binary under test on this machine.
    pub fn timonel(&self, arguments: &[&str]) -> Output {
        let mut all = vec![self.binary.display().to_string()];
        all.extend(arguments.iter().map(|a| (*a).to_string()));
        self.run(&all, "")
    }

    /// `timonel uninstall` for this machine's folders.
    pub fn uninstall(&mut self) -> Output {
        let (data, run_dir) = (self.folder.join("data").display().to_string(), self.run_dir());
        let output = self.timonel(&[
            "uninstall",
            "--yes",
            "--data-dir",
            &data,
            "--run-dir",
            &run_dir,
            "--cgroup-root",
            &self.cgroup(),
        ]);
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        output
    }

    pub(crate) fn remove(&mut self) {
        self.uninstall();
        self.containerd = None;
        let _ = run("ip", &["netns", "delete", &self.namespace]);
    }
}
