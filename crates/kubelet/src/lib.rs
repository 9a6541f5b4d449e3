//! The node agent (kubelet): runs the pods that the API assigns to this node, and reports how they are.
//!
//! Its rooms, from top to bottom; each imports only those after it (`scripts/check-cycles.py`):
//! - `server`: the kubelet's own API (port 10250): logs, exec, attach, port-forward, statistics
//! - `node`: the Node object and its lease, eviction under pressure, image garbage collection, statistics
//! - `pod`: admission, static pods, one worker for each pod, its probes and its status, graceful shutdown
//! - `volumes`: volumes of pods, CSI drivers, `local-path`
//! - `images`: pulls, back-off, and which pods may use an image
//! - `container_runtime`: shims of our own or another runtime (CRI), and the pod network
//! - `environment`: variables of containers and the downward API
//! - `devices`: devices of the node that device plugins give to containers
//! - `plugins`: how plugins of the node make themselves known
//! - `state`: what is kept of pods on disk
//! - `machine`: what the machine has, and what of it pods may use
//! - `spec`: what a pod's spec means, whichever runtime runs it
//! - `logs`, `streaming`, `events`, `config`
//!
//! Invariants:
//! - All that is needed to take up a running pod again is on disk before it is relied on; a restart touches no container.
//! - Nothing is polled: pods come from a watch, ends of containers from their shims.
//! - A pod's worker alone changes that pod's things.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod config;
mod container_runtime;
mod devices;
mod environment;
mod events;
#[cfg(test)]
mod extremes;
mod images;
mod logs;
mod machine;
mod node;
pub mod offline;
mod plugins;
mod pod;
mod server;
mod spec;
mod state;
mod streaming;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ::network::LocalPods;
use informer::{Informers, Quarantine, Recorder};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use runtime::ImageStore;
use runtime::files::SharedWatch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use container_runtime::cri::{CriImages, CriRuntime};
use container_runtime::own::Shims;
use container_runtime::{ContainerRuntime, ImageService, NodeHandles, user_namespaces};
use devices::claims::ClaimManager;
use devices::pod_resources::{self, ActivePods};
use devices::{DeviceManager, registration};
use environment::Environment;
use images::ImageManager;
use images::records::PullRecords;
use machine::allocatable;
use node::eviction::{self, EvictionManager};
use node::reporter::{self, NodeReporter};
use node::stats::StatsProvider;
use plugins::PluginHandler;
use pod::admission::Pressures;
use pod::context::{Context, Handles};
use pod::manager::PodManager;
use server::Server;
use volumes::VolumeManager;
use volumes::csi::{self, Csi};
use volumes::local_path::{self, LocalPath};

pub use config::{
    AllowedSysctls, Backoff, BadBackoff, BadReservation, Config, CredentialVerification, MalformedThreshold,
    NotNamespaced, Reserved, ShutdownGrace, Thresholds, UnknownVerification, max_pods, seconds,
};
pub use container_runtime::cri::{Cri, RuntimeError};
pub use container_runtime::network::{PodNetwork, port_name};
pub use machine::MachineInfo;
pub use node::registration::register;
pub use pod::manager::{restored_addresses, restored_pods};
pub use server::Serving;

/// The readers of what strangers send, for the fuzz targets.
pub mod readers {
    pub use crate::container_runtime::cri::pid_in;
    pub use crate::environment::expansion;
    pub use crate::logs::last_words;
    pub use crate::pod::static_pods::read as static_pod;
    pub use crate::streaming::{dialect, spdy};
    pub use crate::volumes::csi::registry::entry as driver;
}

/// The container runtime of a node.
pub enum Runtime {
    /// Shims of our own.
    Own(Arc<ImageStore>),
    /// Another runtime, by the CRI.
    Cri(Box<(Cri, CriImages)>),
}

/// What the agent is connected to.
pub struct Parts {
    /// A client of the API.
    pub client: Client,
    /// Caches of the API's objects.
    pub informers: Informers,
    /// Runs containers.
    pub runtime: Runtime,
    /// Whether a runtime that isn't our own is to connect pods to this agent's network.
    pub connects_runtime: bool,
    /// The network of the node's pods.
    pub network: PodNetwork,
    /// Told of pods before they start; containers wait there for their network policies.
    pub local: LocalPods,
    /// The kubelet's own API is served with this.
    pub serving: Serving,
    /// Pods whose handling ended the process.
    pub quarantine: Quarantine,
}

/// A runtime with its images.
struct Connected {
    runtime: Arc<dyn ContainerRuntime>,
    images: Arc<dyn ImageService>,
}

/// Connects a runtime to the node.
async fn connect(runtime: Runtime, node: NodeHandles, connects_network: bool) -> Connected {
    let (cri, images) = match runtime {
        Runtime::Own(images) => {
            let shims = Shims { images: images.clone(), node };
            return Connected { runtime: Arc::new(shims), images: Arc::new(images) };
        }
        Runtime::Cri(both) => *both,
    };
    let (of, config) = (cri.clone(), node.config.clone());
    tasks::supervise("cri-logs", move || container_runtime::cri::rotate(of.clone(), config.clone()));
    if connects_network && let Err(error) = container_runtime::cri::serve_network(node.clone(), cri.clone()).await {
        tracing::error!(%error, "failed to write the CNI configuration for the container runtime");
    }
    Connected { runtime: Arc::new(CriRuntime { cri, node }), images: Arc::new(images) }
}

/// Which pods may use which of the images that are present.
async fn pull_records(config: &Config, images: &dyn ImageService) -> PullRecords {
    let present = images.list().await;
    let names = |image: &runtime::Image| image.names.iter().chain(&image.digests).cloned().collect::<Vec<_>>();
    let ids: HashMap<String, String> =
        present.iter().flat_map(|image| names(image).into_iter().map(|name| (name, image.id.clone()))).collect();
    PullRecords::open(&config.data_dir, config.image_verification.clone(), |name| ids.get(name).cloned())
}

/// Sets the limits of the cgroup of all pods, where resources are reserved.
fn enforce_allocatable(config: &Config) {
    let machine = MachineInfo::gather(&config.data_dir);
    let Some(limits) = allocatable::limits_of_all_pods(config, &machine) else { return };
    let root = &config.cgroup_root;
    if let Err(error) = runtime::cgroup::create(root).and_then(|()| runtime::cgroup::set_limits(root, &limits)) {
        tracing::error!(%error, "failed to enforce --kube-reserved and --system-reserved on the cgroup of all pods");
    }
}

/// What several rooms are composed with.
struct Common {
    config: Arc<Config>,
    client: Client,
    informers: Informers,
    events: Recorder,
    runtime: Arc<dyn ContainerRuntime>,
    images: Arc<dyn ImageService>,
    devices: Arc<DeviceManager>,
    claims: Arc<ClaimManager>,
}

/// What the pods' room alone is composed with.
struct PodParts {
    user_namespaces: Arc<user_namespaces::Ranges>,
    local: LocalPods,
    quarantine: Quarantine,
    pressures: watch::Receiver<Pressures>,
}

impl Common {
    /// Starts what serves volumes, and then the pods' workers.
    async fn start_pods(&self, parts: PodParts) -> Arc<PodManager> {
        let (config, client) = (&self.config, &self.client);
        let records = pull_records(config, &*self.images).await;
        let images = ImageManager::new(client.clone(), self.events.clone(), self.images.clone(), records);
        let images = Arc::new(images);
        let csi = Csi::new(config.clone(), client.clone(), self.informers.clone(), self.events.clone());
        let local_path = LocalPath::new(config.clone(), client.clone(), self.informers.clone(), self.events.clone());
        let (csi, local_path, api_synced) = (Arc::new(csi), Arc::new(local_path), Arc::<AtomicBool>::default());
        let volumes = VolumeManager::new(
            config.clone(),
            client.clone(),
            images.clone(),
            csi.clone(),
            local_path.clone(),
            api_synced.clone(),
        );
        let pods = PodManager::start(Context::new(Handles {
            config: config.clone(),
            client: client.clone(),
            informers: self.informers.clone(),
            events: self.events.clone(),
            runtime: self.runtime.clone(),
            images,
            volumes: Arc::new(volumes),
            devices: self.devices.clone(),
            claims: self.claims.clone(),
            environment: Environment::new(config.clone(), client.clone(), self.informers.of::<Service>()),
            user_namespaces: parts.user_namespaces,
            local: parts.local,
            quarantine: parts.quarantine,
            api_synced,
            pressures: parts.pressures,
        }));
        tasks::until_done("local-volumes", move || local_path::run(local_path.clone()));
        self.start_plugins(csi, &pods);
        pods
    }

    /// Starts what plugins of the node register with, and what tells of their devices.
    fn start_plugins(&self, csi: Arc<Csi>, pods: &Arc<PodManager>) {
        let (config, devices) = (self.config.clone(), self.devices.clone());
        let handlers: Vec<Arc<dyn PluginHandler>> = vec![csi.clone(), devices.clone(), self.claims.clone()];
        tasks::until_done("plugins", move || {
            let (config, csi, handlers) = (config.clone(), csi.clone(), handlers.clone());
            async move {
                csi::create_csi_node(&csi).await;
                plugins::run(config, handlers).await;
            }
        });
        let registered = devices.clone();
        tasks::supervise("device-plugins", move || registration::run(registered.clone()));
        let (socket, all, claims) = (self.config.pod_resources_socket(), pods.clone(), self.claims.clone());
        let active: ActivePods = Arc::new(move || all.active());
        tasks::supervise("pod-resources", move || {
            pod_resources::run(socket.clone(), devices.clone(), claims.clone(), active.clone())
        });
        let claims = self.claims.clone();
        tasks::until_done("wipe-stale-slices", move || claims.clone().wipe_stale());
        let (claims, pods) = (self.claims.clone(), pods.clone());
        tasks::supervise("unprepare-claims", move || {
            let pods = pods.clone();
            claims.clone().reconcile(move |uid| pods.has(uid))
        });
    }

    /// Starts what reports the node and what evicts its pods.
    fn start_node(
        &self,
        network: Arc<PodNetwork>,
        pods: &Arc<PodManager>,
        stats: &Arc<StatsProvider>,
        pressures: watch::Sender<Pressures>,
    ) {
        let reporter = Arc::new(NodeReporter {
            config: self.config.clone(),
            client: self.client.clone(),
            informers: self.informers.clone(),
            events: self.events.clone(),
            runtime: self.runtime.clone(),
            images: self.images.clone(),
            network,
            pods: pods.clone(),
            pressures: pressures.subscribe(),
            devices: self.devices.clone(),
        });
        let evictions = Arc::new(EvictionManager {
            config: self.config.clone(),
            images: self.images.clone(),
            pods: pods.clone(),
            stats: stats.clone(),
            pressures,
        });
        tasks::supervise("node-status", move || reporter::run(reporter.clone()));
        tasks::supervise("node-eviction", move || eviction::run(evictions.clone()));
    }
}

/// Runs the agent until `stop` is cancelled. Pods keep running, unless the machine goes down.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) {
    let (config, client, network) = (Arc::new(config), parts.client, Arc::new(parts.network));
    let known_users = state::sandboxes(&config).filter_map(|(uid, sandbox)| Some((uid, sandbox.first_user?)));
    let user_namespaces = Arc::new(user_namespaces::Ranges::restored(known_users));
    let node = NodeHandles {
        config: config.clone(),
        client: client.clone(),
        network: network.clone(),
        user_namespaces: user_namespaces.clone(),
    };
    let Connected { runtime, images } = connect(parts.runtime, node, parts.connects_runtime).await;
    enforce_allocatable(&config);
    let events = Recorder::new(client.clone(), "kubelet", &config.node_name);
    let devices = DeviceManager::restored(&config);
    let claims = ClaimManager::restored(&config, client.clone());
    let common = Common { config, client, informers: parts.informers, events, runtime, images, devices, claims };
    let (pressures, seen) = watch::channel(Pressures::default());
    let (local, quarantine) = (parts.local, parts.quarantine);
    let pods = common.start_pods(PodParts { user_namespaces, local, quarantine, pressures: seen }).await;
    let Common { config, client, runtime, images, .. } = &common;
    let stats = StatsProvider::new(config.clone(), runtime.clone(), images.folder().into(), pods.clone());
    common.start_node(network, &pods, &stats, pressures);
    let server = Arc::new(Server {
        node_name: config.node_name.clone(),
        client: client.clone(),
        pods: pods.clone(),
        runtime: runtime.clone(),
        stats,
        log_changes: SharedWatch::default(),
    });
    tokio::select! {
        () = server::run(server, parts.serving) => {}
        () = async {
            stop.cancelled().await;
            // The kubelet's API goes on, for hooks and for those who look.
            if !config.shutdown_grace.total.is_zero() && pod::shutdown::machine_goes_down().await {
                pods.shut_down().await;
            }
        } => {}
    }
}
