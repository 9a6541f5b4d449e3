//! The process of a machine: its start, its crashes, a reboot, and the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::{Node, Output, READY_TIMEOUT, run};

impl Node {
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
