//! Clusters for tests: each in network namespaces, folders and cgroups of its own.
//!
//! Dropping a cluster uninstalls it, also when a test failed; then its logs are printed first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::clients;
use crate::containerd::Containerd;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How `timeout(1)` tells that the time of a command was over.
const TIMED_OUT: i32 = 124;
/// Waits this long for what should happen within a few seconds, be it of a command or of the cluster; only a broken test takes it all.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// One machine of a test cluster.
pub struct Node {
    name: String,
    namespace: String,
    address: String,
    address_v6: String,
    folder: PathBuf,
    binary: PathBuf,
    process: Option<Child>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Who runs the pods, if that isn't timonel itself.
    pub containerd: Option<Containerd>,
}

/// A command that runs beside a test; dropping it ends it.
pub struct Beside {
    process: Child,
    lines: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
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

/// A server, and agents that joined it.
pub struct Cluster {
    pub server: Node,
    pub agents: Vec<Node>,
    /// A bridge in a namespace of its own that joins the machines.
    switch: String,
    folder: tempfile::TempDir,
    /// The kubectl that drives it, if it isn't this machine's.
    client: Option<PathBuf>,
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
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
const SWITCHED: &str = "192.0.2";
const ROUTED: &str = "198.51.100";
/// The same of IPv6 (RFC 3849). No router leads from one to the other.
const SWITCHED_V6: &str = "2001:db8:1";
const ROUTED_V6: &str = "2001:db8:2";

/// The binary under test: `TIMONEL_BIN`, or beside the test's own.
fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIMONEL_BIN") {
        return Ok(path.into());
    }
    beside_test("timonel")
}

/// A program of this workspace, which is built where the test is.
///
/// # Errors
/// When it isn't.
pub fn beside_test(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    beside.with_context(|| format!("the binary {name} isn't built: cargo build"))
}

impl Cluster {
    /// Starts a server and waits until its node is ready.
    ///
    /// # Errors
    /// When something is missing on this machine, or the server doesn't come up.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Like [`start`](Self::start), with further flags for the server. With `--disable-agent` there is no node: it is ready
    /// when the API is.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_with(flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_prepared(flags, |_| Ok(()))
    }

    /// Like [`start_with`](Self::start_with), driven by a kubectl of today. `None`, and told, where there is none.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_current(flags: &[&str]) -> anyhow::Result<Option<Self>> {
        if clients::current_kubectl().is_none() {
            clients::skip("no kubectl of today");
            return Ok(None);
        }
        let mut cluster = Self::start_with(flags)?;
        Ok(cluster.use_current_kubectl().then_some(cluster))
    }

    /// From now on a kubectl of today drives it; false, and told, where there is none.
    pub fn use_current_kubectl(&mut self) -> bool {
        self.client = clients::current_kubectl();
        if self.client.is_none() {
            clients::skip("no kubectl of today");
        }
        self.client.is_some()
    }

    /// Like [`start_with`](Self::start_with), after `prepare` has been at the machine's folder.
    ///
    /// # Errors
    /// Those of [`start`](Self::start) and of `prepare`.
    pub fn start_prepared(
        flags: &[&str],
        prepare: impl FnOnce(&mut Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}x{number}", std::process::id());
        let folder = tempfile::Builder::new().prefix("timonel-").tempdir()?;
        let switch = format!("{id}-sw");
        run("ip", &["netns", "add", &switch])?;
        run("ip", &["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        run("ip", &["-n", &switch, "link", "set", "br0", "up"])?;
        let mut server = Node::new(&id, 1, "server-1", folder.path(), &switch, SWITCHED)?;
        server.arguments = server.common("server");
        let kubeconfig = server.folder.join("kubeconfig").display().to_string();
        server.arguments.extend(["--write-kubeconfig".into(), kubeconfig]);
        server.arguments.extend(flags.iter().map(|f| (*f).to_string()));
        let mut cluster = Cluster { server, agents: Vec::new(), switch, folder, client: None };
        prepare(&mut cluster.server)?;
        if flags.contains(&"--disable-agent") {
            cluster.server.spawn()?;
            let ready = || Ok(cluster.kubectl(&["get", "serviceaccount", "default"]).code == 0);
            cluster.eventually("the API is served", ready)?;
            return Ok(cluster);
        }
        cluster.server.put_images()?;
        cluster.server.spawn()?;
        cluster.wait_ready("server-1")?;
        Ok(cluster)
    }

    /// Joins another machine and waits until its node is ready.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn join(&mut self) -> anyhow::Result<()> {
        self.join_from(SWITCHED, &[])
    }

    /// Like [`join`](Self::join), with further flags for the agent.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    pub fn join_with(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        self.join_from(SWITCHED, flags)
    }

    /// Like [`join`](Self::join), with a router between the machine and the others.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    pub fn join_by_router(&mut self) -> anyhow::Result<()> {
        let switch = self.switch.clone();
        run("ip", &["-n", &switch, "addr", "add", &format!("{SWITCHED}.254/24"), "dev", "br0"])?;
        let namespace = format!("--net=/run/netns/{switch}");
        run("nsenter", &[&namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        self.join_from(ROUTED, &[])
    }

    /// Like [`join_with`](Self::join_with), after `prepare` has been at the machine's folder.
    ///
    /// # Errors
    /// Those of [`join`](Self::join) and of `prepare`.
    pub fn join_prepared(
        &mut self,
        flags: &[&str],
        prepare: impl FnOnce(&mut Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.join_node(SWITCHED, flags, prepare)
    }

    fn join_from(&mut self, network: &str, flags: &[&str]) -> anyhow::Result<()> {
        self.join_node(network, flags, |_| Ok(()))
    }

    fn join_node(
        &mut self,
        network: &str,
        flags: &[&str],
        prepare: impl FnOnce(&mut Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let number = self.agents.len() as u32 + 2;
        let name = format!("agent-{number}");
        let id = self.switch.trim_end_matches("-sw").to_string();
        let mut node = Node::new(&id, number, &name, self.folder.path(), &self.switch, network)?;
        node.arguments = node.common("agent");
        let token = std::fs::read_to_string(self.server.folder.join("data/server/node-token"))?;
        node.arguments.extend(["--server".into(), self.url(), "--token".into(), token.trim().into()]);
        node.arguments.extend(flags.iter().map(|flag| (*flag).to_string()));
        prepare(&mut node)?;
        node.put_images()?;
        node.spawn()?;
        self.agents.push(node);
        self.wait_ready(&name)
    }

    /// A machine of the same network that isn't one of the cluster's.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn bystander(&self) -> anyhow::Result<Bystander> {
        const NUMBER: u32 = 99;
        let id = self.switch.trim_end_matches("-sw");
        Ok(Bystander(Node::new(id, NUMBER, "bystander", self.folder.path(), &self.switch, SWITCHED)?))
    }

    pub fn url(&self) -> String {
        format!("https://{}:6443", self.server.address())
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// When it never is.
    pub fn wait_ready(&self, node: &str) -> anyhow::Result<()> {
        self.eventually(&format!("node {node} is ready"), || Ok(is_ready(&self.get("node", node)?)))
    }

    /// Runs kubectl: the stock one if this machine has one, else our own.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        self.server.run(&self.kubectl_line(arguments), input)
    }

    /// The words of a kubectl command, to be run on the server's machine.
    pub fn kubectl_line(&self, arguments: &[&str]) -> Vec<String> {
        let kubeconfig = self.server.folder.join("kubeconfig").display().to_string();
        // Clusters of tests have the same address; what kubectl keeps of one must not be taken for another's.
        let cache = format!("KUBECACHEDIR={}", self.server.folder.join("kubectl-cache").display());
        let mut all = vec!["env".to_string(), cache];
        match &self.client {
            Some(program) => all.push(program.display().to_string()),
            None if stock_kubectl().is_some() => all.push("kubectl".into()),
            None => all.extend([self.server.binary.display().to_string(), "kubectl".into()]),
        }
        all.extend(["--kubeconfig".into(), kubeconfig]);
        all.extend(arguments.iter().map(|a| (*a).to_string()));
        all
    }

    /// Starts a kubectl that runs beside the test; it ends with the result.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn kubectl_beside(&self, arguments: &[&str]) -> anyhow::Result<Beside> {
        self.server.beside(&self.kubectl_line(arguments))
    }

    /// Runs kubectl, which must succeed; returns what it printed.
    ///
    /// # Errors
    /// With what it printed to stderr.
    pub fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl(arguments);
        if output.code != 0 {
            let state = if output.code == TIMED_OUT { self.pods_and_events() } else { String::new() };
            let said = format!("{}{}{state}", output.stdout, output.stderr);
            bail!("kubectl {} ended with {}: {said}", arguments.join(" "), output.code);
        }
        Ok(output.stdout)
    }

    /// What there is to see of all pods, for the message of a test that waited in vain.
    fn pods_and_events(&self) -> String {
        let ask = |arguments: &[&str]| self.kubectl(arguments).stdout;
        let pods = ask(&["get", "pods", "-A", "-o", "yaml"]);
        format!("\n{pods}\n{}", ask(&["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"]))
    }

    /// # Errors
    /// With what the server said.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        let output = self.kubectl_with(&["apply", "-f", "-"], yaml);
        if output.code != 0 {
            bail!("apply: {}{}", output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ok(&["get", kind, name, "-o", "json"])?)?)
    }

    /// The objects of a kind.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn list(&self, kind: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.ok(&["get", kind, "-l", selector, "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until `check` says yes. The time is a limit for broken tests, not a measure.
    ///
    /// # Errors
    /// When it never does, with the last error.
    pub fn eventually(&self, what: &str, mut check: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let outcome = check();
            if matches!(outcome, Ok(true)) {
                return Ok(());
            }
            if start.elapsed() > READY_TIMEOUT {
                bail!("it never came that {what}: {outcome:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// When it never is.
    pub fn wait_pod(&self, name: &str) -> anyhow::Result<()> {
        let waited = self.eventually(&format!("pod {name} is ready"), || {
            let pod = self.get("pod", name)?;
            let ready = pod["metadata"]["deletionTimestamp"].is_null() && is_ready(&pod);
            anyhow::ensure!(ready, "{}", pod["status"]);
            Ok(true)
        });
        waited.map_err(|error| {
            let selector = format!("involvedObject.name={name}");
            let events = self.kubectl(&["get", "events", "--field-selector", &selector]).stdout;
            error.context(format!("what was told of pod {name}:\n{events}"))
        })
    }
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

/// Whether a pod or a node says that it is ready.
pub fn is_ready(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The minor version of the kubectl on the PATH, if there is one.
pub fn stock_kubectl() -> Option<u32> {
    clients::minor_of(Path::new("kubectl"))
}

/// A machine that runs nothing of ours; it goes when it is dropped.
pub struct Bystander(Node);

impl std::ops::Deref for Bystander {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "delete", &self.0.namespace]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            for node in std::iter::once(&self.server).chain(&self.agents) {
                let log = std::fs::read_to_string(node.folder.join("log")).unwrap_or_default();
                // Where nobody listens any more (`| head`) a panic here would end the process before it has cleaned up.
                let _ = writeln!(std::io::stderr(), "--- log of {} ---\n{log}", node.name);
            }
        }
        for node in self.agents.iter_mut().chain([&mut self.server]) {
            node.remove();
        }
        let _ = run("ip", &["netns", "delete", &self.switch]);
    }
}

impl Node {
    fn new(id: &str, number: u32, name: &str, folder: &Path, switch: &str, network: &str) -> anyhow::Result<Self> {
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

    fn common(&self, role: &str) -> Vec<String> {
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

    fn put_images(&mut self) -> anyhow::Result<()> {
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

    fn remove(&mut self) {
        self.uninstall();
        self.containerd = None;
        let _ = run("ip", &["netns", "delete", &self.namespace]);
    }
}
