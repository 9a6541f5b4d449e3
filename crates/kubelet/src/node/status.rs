//! The Node object: registration, status, lease.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use runtime::huge_pages;
use serde_json::{Value, json};

use crate::Agent;
use crate::Config;
use crate::container_runtime::{self, Engine};
use crate::machine::allocatable;
use crate::node::eviction::Pressures;
use crate::pod::manager::Manager;
use crate::pod::sandbox::Places;
use crate::pod::worker;

/// How often the lease is renewed. The node counts as lost after four of these.
const LEASE_RENEW_PERIOD: Duration = Duration::from_secs(10);
/// How long a renewal may take before another is tried: as long as upstream's kubelet gives it.
const LEASE_LIMIT: Duration = Duration::from_secs(10);
/// How long the control plane may take to give a node its ranges.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the status is written when nothing changed.
const STATUS_REPORT_PERIOD: Duration = Duration::from_secs(300);

/// Between the node's registration and the status that is still to be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the machine offers.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub cpus: usize,
    pub memory_kib: u64,
    pub disk_bytes: u64,
    /// How many processes and threads there may be.
    pub processes: u64,
    /// Sizes of huge pages, and the memory that is set aside for each, in bytes.
    pub huge_pages: Vec<(u64, u64)>,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
}

fn read(path: &str) -> String {
    bounded::text(path, bounded::OWN).unwrap_or_default().trim().to_string()
}

impl NodeFacts {
    pub fn gather(data_dir: &std::path::Path) -> Self {
        let memory = read("/proc/meminfo");
        let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
        let disk = nix::sys::statvfs::statvfs(data_dir);
        let release = read("/etc/os-release");
        let os = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        NodeFacts {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: total.and_then(|t| t.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0),
            disk_bytes: disk.map_or(0, |d| d.blocks() * d.fragment_size()),
            processes: ["pid_max", "threads-max"]
                .iter()
                .filter_map(|file| read(&format!("/proc/sys/kernel/{file}")).parse().ok())
                .min()
                .unwrap_or(0),
            huge_pages: huge_pages::sizes().into_iter().map(|size| (size, huge_pages::set_aside(size))).collect(),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os.map_or_else(|| "Linux".into(), |o| o.trim_matches('"').into()),
            machine_id: read("/etc/machine-id"),
            boot_id: runtime::boot_id(),
        }
    }
}

fn labels(config: &Config) -> Value {
    let mut labels = json!({
        "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": config.node_name,
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
    });
    if config.is_server {
        labels["node-role.kubernetes.io/control-plane"] = "true".into();
    }
    for (key, value) in &config.labels {
        labels[key] = value.as_str().into();
    }
    labels
}

/// A condition, with the time of its last change kept from `before`.
fn condition(before: &[NodeCondition], kind: &str, status: bool, (yes, no): (&str, &str), message: &str) -> Value {
    let now = json!(k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let text = if status { "True" } else { "False" };
    let same = before.iter().find(|c| c.type_ == kind && c.status == text);
    let since = same.and_then(|c| serde_json::to_value(&c.last_transition_time).ok()).filter(|t| !t.is_null());
    json!({"type": kind, "status": text, "reason": if status { yes } else { no }, "message": message,
           "lastHeartbeatTime": now, "lastTransitionTime": since.unwrap_or(now)})
}

/// `unready` says why the node isn't ready, if it isn't.
fn conditions(before: &[NodeCondition], pressures: Pressures, unready: Option<&str>) -> Vec<Value> {
    let of = |kind, is: bool, reasons, (yes, no): (&str, &str)| {
        condition(before, kind, is, reasons, if is { yes } else { no })
    };
    vec![
        of(
            "MemoryPressure",
            pressures.memory,
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        ),
        of(
            "DiskPressure",
            pressures.disk,
            ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            ("kubelet has disk pressure", "kubelet has no disk pressure"),
        ),
        of(
            "PIDPressure",
            pressures.processes,
            ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        ),
        of(
            "Ready",
            unready.is_none(),
            ("KubeletReady", "KubeletNotReady"),
            ("kubelet is posting ready status", unready.unwrap_or("")),
        ),
    ]
}

fn addresses(config: &Config) -> Vec<Value> {
    let internal = config.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    internal.chain([json!({"type": "Hostname", "address": config.node_name})]).collect()
}

/// The status that says what this node is and that it is ready.
fn status(config: &Config, engine: &dyn Engine, images: &[runtime::Image], conditions: Vec<Value>) -> Value {
    let facts = NodeFacts::gather(&config.data_dir);
    let (capacity, allocatable) = allocatable::amounts(config, &facts);
    let container_runtime::Version { name, version } = engine.version();
    let abilities = engine.abilities();
    let images: Vec<Value> = images
        .iter()
        .take(50)
        .map(|i| json!({"names": i.digests.iter().chain(&i.names).collect::<Vec<_>>(), "sizeBytes": i.size}))
        .collect();
    let handlers: Vec<Value> = std::iter::once("")
        .chain(abilities.handlers.iter().flatten().map(String::as_str))
        .map(|name| {
            let has = |list: &[String]| list.iter().any(|n| n == name);
            json!({"name": name, "features": {"recursiveReadOnlyMounts": has(&abilities.recursive_read_only),
                "userNamespaces": has(&abilities.user_namespaces)}})
        })
        .collect();
    json!({
        "capacity": capacity, "allocatable": allocatable,
        // As a list that is merged by type, two addresses of one type would become one.
        "addresses": addresses(config).into_iter().chain([json!({"$patch": "replace"})]).collect::<Vec<_>>(),
        "volumesInUse": crate::volumes::csi::in_use(config),
        "runtimeHandlers": handlers,
        "features": {"supplementalGroupsPolicy": abilities.supplemental_groups_policy},
        "daemonEndpoints": {"kubeletEndpoint": {"Port": crate::server::PORT}},
        "nodeInfo": {"machineID": facts.machine_id, "systemUUID": facts.machine_id, "bootID": facts.boot_id,
            "kernelVersion": facts.kernel, "osImage": facts.os_image, "containerRuntimeVersion": format!("{name}://{version}"),
            "kubeletVersion": concat!("v1.37.0+timonel", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64"},
        "images": images,
        "conditions": conditions,
    })
}

/// Creates or updates the Node, and waits for its ranges of pod addresses.
pub async fn register(config: &Config, client: &Client) -> Result<Vec<IpNet>, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let taints: Vec<Value> = config
        .taints
        .iter()
        .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
        .collect();
    let node = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels(config),
                     "annotations": {"timonel.io/storage-path": config.storage_dir().display().to_string()}},
        "spec": {"taints": taints}});
    let object: Node = serde_json::from_value(node.clone()).map_err(kube::Error::SerdeError)?;
    match nodes.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = json!({"metadata": node["metadata"]});
            nodes.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Err(error) => return Err(error),
    }
    // Before the rest of the status: a certificate to serve with is signed for these alone.
    let addresses = Patch::Merge(json!({"status": {"addresses": addresses(config)}}));
    nodes.patch_status(&config.node_name, &PatchParams::default(), &addresses).await?;
    let field = format!("metadata.name={}", config.node_name);
    loop {
        let present = nodes.get(&config.node_name).await?;
        let version = present.metadata.resource_version.clone().unwrap_or_default();
        let ranges = |node: &Node| -> Option<Vec<IpNet>> {
            node.spec.as_ref()?.pod_cidrs.as_ref()?.iter().map(|range| range.parse().ok()).collect()
        };
        if let Some(ranges) = ranges(&present) {
            return Ok(ranges);
        }
        use futures::TryStreamExt as _;
        let watch = kube::api::WatchParams::default().fields(&field).timeout(30);
        let mut events = std::pin::pin!(nodes.watch(&watch, &version).await?);
        while let Some(event) = events.try_next().await? {
            if let kube::api::WatchEvent::Modified(node) = event
                && let Some(ranges) = ranges(&node)
            {
                return Ok(ranges);
            }
        }
    }
}

/// What is told when a condition gets a status that it didn't have.
fn turned(before: &[NodeCondition], now: &[NodeCondition]) -> Vec<&'static str> {
    let reason = |c: &NodeCondition| {
        Some(match (c.type_.as_str(), c.status.as_str()) {
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("MemoryPressure", "False") => "NodeHasSufficientMemory",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("DiskPressure", "False") => "NodeHasNoDiskPressure",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
            ("PIDPressure", "False") => "NodeHasSufficientPID",
            ("Ready", "True") => "NodeReady",
            ("Ready", "False") => "NodeNotReady",
            _ => return None,
        })
    };
    let is_new = |c: &&NodeCondition| !before.iter().any(|b| b.type_ == c.type_ && b.status == c.status);
    now.iter().filter(is_new).filter_map(reason).collect()
}

/// What is told when it begins to fail and when it works again, and not in between.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn take(&mut self, what: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) if self.0.take().is_some() => tracing::info!("{what} succeeded again"),
            Ok(()) => {}
            Err(why) => {
                if self.0.as_ref() != Some(&why) {
                    tracing::warn!(why, "{what} failed; retrying");
                }
                self.0 = Some(why);
            }
        }
    }
}

/// What is said of the own Node: it is called unknown after too long a silence, and somebody may delete it.
#[derive(Default)]
struct Heard {
    doubted: tokio::sync::Notify,
    deleted: tokio::sync::Notify,
}

fn listen(agent: &Agent) -> Arc<Heard> {
    let heard = Arc::new(Heard::default());
    let (to, name) = (heard.clone(), agent.config.node_name.clone());
    agent.informers.of::<Node>().on_change(move |change| {
        if change.object().metadata.name.as_deref() != Some(&name) {
            return;
        }
        match change {
            informer::Change::Applied { new, .. } => {
                let conditions = new.status.as_ref().and_then(|s| s.conditions.as_ref());
                if conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "Unknown") {
                    to.doubted.notify_one();
                }
            }
            informer::Change::Deleted(_) => to.deleted.notify_one(),
        }
    });
    heard
}

/// Writes the status at start and on a slow timer, and renews the lease. A Node that somebody deletes is registered again at once: without its
/// object the node gets no pods, and its range of addresses may go to another.
pub async fn keep_status(manager: Arc<Manager>) {
    let agent = &manager.agent;
    let (config, client) = (&agent.config, &agent.client);
    let nodes: Api<Node> = Api::all(client.clone());
    let mut next_status = tokio::time::Instant::now();
    let mut shown_images = 0;
    let mut pressures = agent.pressures.subscribe();
    let mut leaving = agent.shutdown.begun();
    let heard = listen(agent);
    // The range may have become another while no agent was here.
    let of_before = manager.clone();
    tasks::spawn("lost-addresses", async move {
        of_before.pods.synced().await;
        evict_lost(&of_before);
    });
    let mut network_changed = agent.network.changes();
    let mut shown_problem = None;
    let (mut told_status, mut told_lease) = (Told::default(), Told::default());
    let mut before: Vec<NodeCondition> = Vec::new();
    if let Ok(node) = nodes.get(&config.node_name).await {
        agent.events.normal(&node, "Starting", "Starting kubelet.");
        let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
        let boot = NodeFacts::gather(&config.data_dir).boot_id;
        if info.is_some_and(|i| !i.boot_id.is_empty() && i.boot_id != boot) {
            let text = format!("Node {} has been rebooted, boot id: {boot}", config.node_name);
            agent.events.warning(&node, "Rebooted", text);
        }
        before = node.status.and_then(|s| s.conditions).unwrap_or_default();
    }
    loop {
        let problem = match agent.engine.problem().await {
            Some(problem) => Some(problem),
            // In the words of upstream's kubelet, which others look for.
            None => agent.network.problem().map(|why| {
                format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}")
            }),
        };
        let images = agent.images.list().await;
        let changed = pressures.has_changed().unwrap_or(false)
            || leaving.has_changed().unwrap_or(false)
            || problem != shown_problem;
        if changed || tokio::time::Instant::now() >= next_status || images.len() != shown_images {
            let patch = {
                let is_leaving = leaving.borrow_and_update().is_some();
                shown_problem.clone_from(&problem);
                let unready = if is_leaving { Some("node is shutting down".into()) } else { problem };
                let conditions = conditions(&before, *pressures.borrow_and_update(), unready.as_deref());
                json!({"status": status(config, &*agent.engine, &images, conditions)})
            };
            let written =
                nodes.patch_status(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            let failed = match written {
                Ok(node) => {
                    let reference = node.object_ref(&());
                    let now = node.status.and_then(|s| s.conditions).unwrap_or_default();
                    for reason in turned(&before, &now) {
                        let text = format!("Node {} status is now: {reason}", config.node_name);
                        agent.events.record(reference.clone(), "Normal", reason, text);
                    }
                    before = now;
                    next_status = tokio::time::Instant::now() + STATUS_REPORT_PERIOD;
                    shown_images = images.len();
                    Ok(())
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    let registered = register_again(&manager).await;
                    before.clear();
                    next_status = tokio::time::Instant::now();
                    if registered.is_ok() {
                        // What it is comes right after that it is.
                        tokio::time::sleep(RETRY_AFTER).await;
                        continue;
                    }
                    registered
                }
                Err(error) => Err(error.to_string()),
            };
            told_status.take("writing the node's status", failed);
        }
        told_lease.take("renewing the node's lease", renew_lease(config, client).await);
        tokio::select! {
            () = tokio::time::sleep(LEASE_RENEW_PERIOD) => {}
            () = heard.doubted.notified() => {
                if let Ok(node) = nodes.get(&config.node_name).await {
                    before = node.status.and_then(|s| s.conditions).unwrap_or_default();
                }
                next_status = tokio::time::Instant::now();
            }
            // The status finds out whether it still is so.
            () = heard.deleted.notified() => next_status = tokio::time::Instant::now(),
            Ok(()) = pressures.changed() => pressures.mark_changed(),
            Ok(()) = leaving.changed() => leaving.mark_changed(),
            Some(()) = async { network_changed.as_mut()?.recv().await } => {}
        }
    }
}

/// Gives pods addresses of the ranges that the node has now. Those with other addresses have to go: another node may give them out.
async fn take_ranges(manager: &Manager, ranges: &[IpNet]) {
    let agent = &manager.agent;
    match agent.network.change_ranges(ranges).await {
        Ok(false) => {}
        Ok(true) => evict_lost(manager),
        Err(error) => tracing::error!(error, "failed to apply the new podCIDRs of this node"),
    }
}

/// Ends pods whose addresses aren't of this node's ranges.
fn evict_lost(manager: &Manager) {
    let agent = &manager.agent;
    for pod in manager.pods() {
        let saved = pod.uid().and_then(|uid| worker::load(&Places::of(&agent.config, &uid).data));
        if saved.and_then(|saved| saved.sandbox).is_some_and(|sandbox| agent.network.has_lost(&sandbox)) {
            let message = "The node was registered anew and has another range of pod addresses";
            manager.evict(&pod, message.into());
        }
    }
}

async fn register_again(manager: &Manager) -> Result<(), String> {
    tracing::warn!("the Node object was deleted; registering again");
    let agent = &manager.agent;
    let registering = tokio::time::timeout(REGISTRATION_TIMEOUT, register(&agent.config, &agent.client));
    let ranges = registering.await.map_err(|_| "no ranges were given to it".to_string())?.map_err(|e| e.to_string())?;
    take_ranges(manager, &ranges).await;
    Ok(())
}

async fn renew_lease(config: &Config, client: &Client) -> Result<(), String> {
    let limit = |_| format!("no answer within {LEASE_LIMIT:?}");
    tokio::time::timeout(LEASE_LIMIT, write_lease(config, client)).await.map_err(limit)?.map_err(|e| e.to_string())
}

async fn write_lease(config: &Config, client: &Client) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": config.node_name},
        "spec": {"holderIdentity": config.node_name, "leaseDurationSeconds": 40, "renewTime": now}});
    match leases.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(&lease)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let object = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &object).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
