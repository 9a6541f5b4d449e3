//! Clusters for tests: each in network namespaces, folders and cgroups of its own.
//!
//! Dropping a cluster uninstalls it, also when a test failed; then its logs are printed first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use crate::clients;
use crate::node::{Beside, Node, Output, READY_TIMEOUT, ROUTED, SWITCHED, TIMED_OUT, run};

static NEXT: AtomicU32 = AtomicU32::new(0);

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
        server.arguments = server.common("server", flags);
        let kubeconfig = server.folder.join("kubeconfig").display().to_string();
        server.arguments.extend(["--write-kubeconfig".into(), kubeconfig]);
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
        node.arguments = node.common("agent", flags);
        let token = std::fs::read_to_string(self.server.folder.join("data/server/node-token"))?;
        node.arguments.extend(["--server".into(), self.url(), "--token".into(), token.trim().into()]);
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
    /// When it never is, and at once when the node has DiskPressure.
    pub fn wait_ready(&self, node: &str) -> anyhow::Result<()> {
        let mut pressure = None;
        self.eventually(&format!("node {node} is ready"), || {
            let object = self.get("node", node)?;
            pressure = has_disk_pressure(&object).then(|| object["status"]["conditions"].to_string());
            Ok(is_ready(&object) || pressure.is_some())
        })?;
        // Nothing would be scheduled there, and a test would wait in vain until its time is over.
        match pressure {
            Some(conditions) => bail!(
                "node {node} has DiskPressure: make room on the disk of {}: {conditions}",
                self.folder.path().display()
            ),
            None => Ok(()),
        }
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

/// Whether a pod or a node says that it is ready.
pub fn is_ready(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whether a node says that its disk is nearly full, so that no pod is scheduled there.
fn has_disk_pressure(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "DiskPressure" && c["status"] == "True")
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
