//! Debian's containerd on a test machine, in the machine's network and in folders of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{Node, images};

/// A running containerd; dropping it ends it with all that it started.
pub struct Containerd {
    process: Option<Child>,
    folder: PathBuf,
    network: PathBuf,
}

impl Containerd {
    /// Starts it in the network of `node`, and loads the images that lie in `archives`.
    ///
    /// # Errors
    /// When it isn't installed or doesn't come up.
    pub fn start(node: &Node, archives: &Path) -> anyhow::Result<Self> {
        let folder = node.folder().join("containerd");
        std::fs::create_dir_all(folder.join("cni/net.d"))?;
        let place = |name: &str| folder.join(name).display().to_string();
        let text = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:test"
# These machines hold no CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{networks}"
bin_dir = "{plugins}"
"#,
            root = place("root"),
            state = place("state"),
            socket = place("containerd.sock"),
            networks = place("cni/net.d"),
            plugins = place("cni/bin"),
        );
        std::fs::write(folder.join("config.toml"), text)?;
        let mut containerd = Containerd { process: None, folder, network: node.network() };
        containerd.spawn()?;
        images::pause(&containerd.folder.join("pause.tar"))?;
        containerd.import(&containerd.folder.join("pause.tar"))?;
        for archive in std::fs::read_dir(archives)?.flatten() {
            containerd.import(&archive.path())?;
        }
        Ok(containerd)
    }

    /// Starts the process (again), and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let process = Command::new("nsenter")
            .arg(format!("--net={}", self.network.display()))
            .args(["containerd", "--config"])
            .arg(self.folder.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd can't be started")?;
        self.process = Some(process);
        let begun = Instant::now();
        while self.ctr(&["version"]).is_err() {
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("containerd doesn't answer: {}", std::fs::read_to_string(self.folder.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.join("containerd.sock").display())
    }

    /// Runs its own client, in the namespace of Kubernetes.
    ///
    /// # Errors
    /// With what it says.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let socket = self.folder.join("containerd.sock");
        let output = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("ctr {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn import(&self, archive: &Path) -> anyhow::Result<()> {
        self.ctr(&["images", "import", &archive.display().to_string()]).map(|_| ())
    }

    /// Kills the process as a crash would, and nothing that it started.
    pub fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The shims that it started, each with what it runs.
    pub fn shims(&self) -> Vec<u32> {
        let socket = self.folder.join("containerd.sock").display().to_string();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("containerd-shim") && line.contains(&socket)
        };
        processes.filter_map(|p| p.file_name().to_string_lossy().parse().ok()).filter(ours).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.crash();
        for shim in self.shims() {
            let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
            for pid in children.split_whitespace().map(String::from).chain([shim.to_string()]) {
                let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|p| Path::new(p).starts_with(&self.folder));
        for point in points.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
        }
    }
}
