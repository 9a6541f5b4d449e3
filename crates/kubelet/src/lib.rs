//! The node agent: makes the pods that the API assigns to this node true, and tells how they are.
//!
//! - [`server`]: the kubelet's own API (port 10250): logs, exec, attach, port-forward, statistics
//! - [`node`]: the Node object and its lease, eviction under pressure, graceful shutdown, statistics
//! - [`pod`]: admission, static pods, one worker for each pod, its probes and its status
//! - [`volumes`]: volumes of pods, CSI drivers, `local-path`
//! - [`images`]: pulls, back-off, and who may use an image
//! - [`container_runtime`]: shims of our own or another runtime (CRI), and the pod network
//! - [`environment`]: variables of containers and the downward API
//! - [`machine`]: what the machine has, and what of it pods may use
//!
//! Invariants:
//! - All that is needed to take up a running pod again is on disk before it is relied on; a restart touches no container.
//! - Nothing is polled: pods come from a watch, ends of containers from their shims.
//! - A pod's worker alone changes that pod's things.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod container_runtime;
mod environment;
mod images;
mod machine;
mod node;
mod pod;
mod server;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ::network::LocalPods;
use informer::{Informers, Recorder};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Resource as _};
use parking_lot::Mutex;
use runtime::ImageStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use container_runtime::cri::CriImages;
use container_runtime::own::Shims;
use container_runtime::{Engine, Images};
use images::records;
use node::{eviction, shutdown};
use pod::{admission, manager, static_pods};
use volumes::{csi, local_path};

pub use container_runtime::cri::{Cri, RuntimeError};
pub use container_runtime::network::{PodNetwork, port_name};
pub use images::records::Verification;
pub use machine::allocatable::{BadReservation, Reserved};
pub use node::eviction::{MalformedThreshold, Thresholds};
pub use node::shutdown::Grace as ShutdownGrace;
pub use node::status::NodeFacts;
pub use pod::manager::{restored_addresses, restored_pods};
pub use server::Serving;

/// The readers of what strangers send, for those who feed them anything: the fuzz targets.
pub mod readers {
    pub use crate::container_runtime::cri::pid_in;
    pub use crate::environment::expansion;
    pub use crate::pod::static_pods::read as static_pod;
    pub use crate::server::logs::last_words;
    pub use crate::server::{dialect, spdy};
    pub use crate::volumes::csi::registry::entry as driver;
}

/// What a node agent needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    /// One of each family that the cluster has, as far as the node has it; the first is the one it is known by.
    pub node_ips: Vec<IpAddr>,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Where plugins look for what upstream's kubelet has in `/var/lib/kubelet`.
    pub kubelet_dir: PathBuf,
    /// The folder of static pods.
    pub static_pods: PathBuf,
    /// Below each cgroup hierarchy's root.
    pub cgroup_root: String,
    /// The machine's resolvers.
    pub resolv_conf: PathBuf,
    /// Pods that the node takes at most: those that it has addresses for, and no more than are known to run well.
    pub max_pods: u32,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub labels: Vec<(String, String)>,
    /// key, value, effect
    pub taints: Vec<(String, String, String)>,
    pub is_server: bool,
    /// Whether snapshots are taken of this node's folders.
    pub snapshots: bool,
    /// What must be left of the machine; below it pods are evicted.
    pub eviction_hard: Thresholds,
    /// What of the machine isn't for pods.
    pub reserved: Reserved,
    /// How many processes and threads a pod may have; zero for any number.
    pub pod_max_pids: i64,
    pub restart_backoff: Backoff,
    /// Whether containers that ask for no seccomp profile get the runtime's.
    pub seccomp_default: bool,
    /// Whose credentials are verified before an image that is here is used.
    pub image_verification: Verification,
    /// None of it: pods are left to the machine's own end.
    pub shutdown_grace: ShutdownGrace,
}

/// How long containers that end again and again wait for their next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// None after the first end; then the first wait, doubling up to the most.
    fn after(self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            n => self.first.saturating_mul(2u32.saturating_pow((n - 1).min(20))).min(self.most),
        }
    }
}

/// `10s`
pub fn seconds(text: &str) -> Option<Duration> {
    Some(Duration::from_secs(text.strip_suffix('s')?.parse().ok()?))
}

impl std::str::FromStr for Backoff {
    type Err = String;

    /// `1s,60s`: the first wait and the longest.
    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = |part: &str| seconds(part.trim());
        let (first, most) = text.split_once(',').ok_or("it wants two times, as in 1s,60s")?;
        match (seconds(first), seconds(most)) {
            (Some(first), Some(most)) if first <= most => Ok(Backoff { first, most }),
            (Some(_), Some(_)) => Err(format!("the first wait {first} is longer than the longest, {most}")),
            _ => Err(format!("{text:?} has a time that isn't a number of seconds, as 10s")),
        }
    }
}

impl Config {
    /// The address by which the node is known.
    fn node_ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }
    fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }
    fn storage_dir(&self) -> PathBuf {
        self.data_dir.join("storage")
    }
}

/// How many pods there are addresses for in a node's ranges, up to what is known to run well.
pub fn max_pods(ranges: &[IpNet]) -> u32 {
    // The first address is the node's own, and neither that of the network nor the last one is anybody's.
    let room = |range: &IpNet| match range.max_prefix_len() - range.prefix_len() {
        bits @ 0..=16 => (1u32 << bits).saturating_sub(3),
        _ => MAX_PODS,
    };
    ranges.iter().map(room).min().unwrap_or(MAX_PODS).min(MAX_PODS)
}

const MAX_PODS: u32 = 310;

/// Everything that the parts of the agent share.
struct Agent {
    config: Config,
    client: Client,
    informers: Informers,
    images: Arc<dyn Images>,
    engine: Arc<dyn Engine>,
    network: PodNetwork,
    /// Who of this node's pods has which addresses, for those that must know before the API does.
    local: LocalPods,
    events: Recorder,
    pulls: images::Pulls,
    pulled: records::Pulled,
    drivers: csi::Drivers,
    statics: static_pods::StaticPods,
    shutdown: shutdown::Shutdown,
    users: container_runtime::user_namespaces::Ranges,
    pressures: watch::Sender<eviction::Pressures>,
    /// Pods that have to go, with the reason, by uid; their workers take them from here.
    evictions: Mutex<HashMap<String, admission::Eviction>>,
    /// What the pods here have of the node.
    admitted: admission::Admitted,
    workers: manager::Workers,
    followed: volumes::watch::Followed,
    /// Pods whose handling ended the process.
    quarantine: informer::Quarantine,
    /// Pods whose volumes are to be looked at at once, by uid.
    stale: Mutex<HashSet<String>>,
    /// Whether the API has said which pods this node has.
    heard: AtomicBool,
}

impl Agent {
    /// An event of one of a pod's containers.
    fn tell(&self, pod: &Pod, container: &str, kind: &'static str, reason: &str, message: impl Into<String>) {
        let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == container);
        let ephemeral =
            pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).any(|c| c.name == container);
        let list = match (init, ephemeral) {
            (true, _) => "initContainers",
            (_, true) => "ephemeralContainers",
            _ => "containers",
        };
        let mut object = pod.object_ref(&());
        object.field_path = Some(format!("spec.{list}{{{container}}}"));
        self.events.record(object, kind, reason, message.into());
    }
}

/// Who runs the containers.
pub enum Runtime {
    /// Shims of our own.
    Own(Arc<ImageStore>),
    /// A runtime that somebody brought.
    Cri(Box<(Cri, CriImages)>),
}

/// The agent's connections to the outside.
pub struct Parts {
    pub client: Client,
    pub informers: Informers,
    pub runtime: Runtime,
    /// Whether a runtime that somebody brought is to connect pods to this agent's own network.
    pub connects_runtime: bool,
    pub network: PodNetwork,
    /// Told of pods before they start; containers wait there until they may.
    pub local: LocalPods,
    pub serving: Serving,
    pub quarantine: informer::Quarantine,
}

/// Registers a node and waits until the control plane has given it its ranges of pod addresses.
///
/// # Errors
/// When the API refuses the node.
pub async fn register(config: &Config, client: &Client) -> Result<Vec<IpNet>, kube::Error> {
    node::status::register(config, client).await
}

/// Runs the agent until `stop` is cancelled. Pods keep running, unless the machine goes down.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) {
    let events = Recorder::new(parts.client.clone(), "kubelet", &config.node_name);
    let (engine, images, cri): (Arc<dyn Engine>, Arc<dyn Images>, Option<Cri>) = match parts.runtime {
        Runtime::Own(images) => (Arc::new(Shims { images: images.clone() }), Arc::new(images), None),
        Runtime::Cri(both) => {
            let (cri, images) = *both;
            (Arc::new(cri.clone()), Arc::new(images), Some(cri))
        }
    };
    let here = images.list().await;
    let names = |image: &runtime::Image| image.names.iter().chain(&image.digests).cloned().collect::<Vec<_>>();
    let known: HashMap<String, String> =
        here.iter().flat_map(|image| names(image).into_iter().map(|name| (name, image.id.clone()))).collect();
    let agent = Arc::new(Agent {
        pulls: images::Pulls::default(),
        pulled: records::Pulled::open(&config.data_dir, config.image_verification.clone(), |name| {
            known.get(name).cloned()
        }),
        drivers: csi::Drivers::default(),
        statics: static_pods::StaticPods::default(),
        shutdown: shutdown::Shutdown::default(),
        users: container_runtime::user_namespaces::Ranges::restored(
            manager::sandboxes(&config).filter_map(|(uid, s)| Some((uid, s.first_user?))),
        ),
        pressures: watch::Sender::default(),
        evictions: Mutex::default(),
        admitted: admission::Admitted::default(),
        workers: manager::Workers::default(),
        followed: volumes::watch::Followed::default(),
        quarantine: parts.quarantine,
        stale: Mutex::default(),
        heard: AtomicBool::default(),
        client: parts.client,
        informers: parts.informers,
        images,
        engine,
        network: parts.network,
        local: parts.local,
        events,
        config,
    });
    if let Some(cri) = cri {
        let (of, config) = (cri.clone(), agent.config.clone());
        tasks::supervise("cri-logs", move || container_runtime::cri::rotate(of.clone(), config.clone()));
        if parts.connects_runtime
            && let Err(error) = container_runtime::cri::serve_network(agent.clone(), cri).await
        {
            tracing::error!(%error, "failed to write the CNI configuration for the container runtime");
        }
    }
    if let Some(bounds) = machine::allocatable::bounds(&agent.config, &NodeFacts::gather(&agent.config.data_dir))
        && let Err(error) = runtime::cgroup::create(&agent.config.cgroup_root)
            .and_then(|()| runtime::cgroup::set_limits(&agent.config.cgroup_root, &bounds))
    {
        tracing::error!(%error, "failed to enforce --kube-reserved and --system-reserved on the cgroup of all pods");
    }
    let manager = manager::Manager::start(agent.clone());
    let of = manager.clone();
    tasks::supervise("node-status", move || node::status::keep_status(of.clone()));
    let of = agent.clone();
    tasks::until_done("local-volumes", move || local_path::run(of.clone()));
    let of = agent.clone();
    tasks::until_done("csi-drivers", move || csi::run(of.clone()));
    let of = manager.clone();
    tasks::supervise("node-eviction", move || eviction::run(of.clone()));
    tokio::select! {
        () = server::run(manager.clone(), parts.serving) => {}
        () = async {
            stop.cancelled().await;
            // The kubelet's API goes on, for hooks and for who wants to look.
            if !manager.agent.config.shutdown_grace.whole.is_zero() && shutdown::machine_goes_down().await {
                manager.shut_down().await;
            }
        } => {}
    }
}

#[cfg(test)]
mod extremes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_as_many_pods_as_it_has_addresses_for() {
        let of = |text: &str| max_pods(&text.split(',').map(|r| r.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(of("10.42.0.0/24"), 253);
        assert_eq!(of("10.42.0.0/23"), 310);
        assert_eq!(of("10.42.0.0/28,fd42::/64"), 13);
        assert_eq!(of("fd42::/64"), 310);
    }

    /// Of a node with nothing special.
    pub fn config() -> Config {
        Config {
            node_name: "node".into(),
            node_ips: Vec::new(),
            data_dir: "/data".into(),
            run_dir: "/run".into(),
            kubelet_dir: "/kubelet".into(),
            static_pods: "/static".into(),
            cgroup_root: "timonel".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 10,
            cluster_dns: std::net::Ipv4Addr::LOCALHOST.into(),
            cluster_domain: "cluster.local".into(),
            labels: Vec::new(),
            taints: Vec::new(),
            is_server: false,
            snapshots: true,
            eviction_hard: Thresholds::default(),
            reserved: Reserved::default(),
            pod_max_pids: 0,
            restart_backoff: Backoff::default(),
            seccomp_default: false,
            image_verification: Verification::default(),
            shutdown_grace: ShutdownGrace::default(),
        }
    }
}
