//! The node agent (kubelet): runs the pods that the API assigns to this node, and reports how they are.
//!
//! Its rooms, from top to bottom; each imports only those after it (`scripts/check-cycles.py`):
//! - [`server`]: the kubelet's own API (port 10250): logs, exec, attach, port-forward, statistics
//! - [`node`]: the Node object and its lease, eviction under pressure, image garbage collection, statistics
//! - [`pod`]: admission, static pods, one worker for each pod, its probes and its status, graceful shutdown
//! - [`volumes`]: volumes of pods, CSI drivers, `local-path`
//! - [`images`]: pulls, back-off, and who may use an image
//! - [`container_runtime`]: shims of our own or another runtime (CRI), and the pod network
//! - [`environment`]: variables of containers and the downward API
//! - [`state`]: what is kept of pods on disk
//! - [`machine`]: what the machine has, and what of it pods may use
//! - [`spec`]: what a pod's spec means, whoever runs it
//! - [`logs`], [`streaming`], [`events`], [`config`]
//!
//! Invariants:
//! - All that is needed to take up a running pod again is on disk before it is relied on; a restart touches no container.
//! - Nothing is polled: pods come from a watch, ends of containers from their shims.
//! - A pod's worker alone changes that pod's things.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod config;
mod container_runtime;
mod environment;
mod events;
#[cfg(test)]
mod extremes;
mod images;
mod logs;
mod machine;
mod node;
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
use environment::Environment;
use images::ImageManager;
use images::records::PullRecords;
use machine::allocatable;
use node::eviction::{self, EvictionManager};
use node::reporter::{self, NodeReporter};
use node::stats::StatsProvider;
use pod::admission::Pressures;
use pod::context::{Context, Handles};
use pod::manager::PodManager;
use server::Server;
use volumes::VolumeManager;
use volumes::csi::{self, Csi};
use volumes::local_path::{self, LocalPath};

pub use config::{
    Backoff, BadBackoff, BadReservation, Config, CredentialVerification, MalformedThreshold, Reserved, ShutdownGrace,
    Thresholds, UnknownVerification, max_pods, seconds,
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

/// Who may use which of the images that are present.
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

/// Runs the agent until `stop` is cancelled. Pods keep running, unless the machine goes down.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) {
    let (config, client, informers) = (Arc::new(config), parts.client, parts.informers);
    let network = Arc::new(parts.network);
    let events = Recorder::new(client.clone(), "kubelet", &config.node_name);
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

    let records = pull_records(&config, &*images).await;
    let image_manager = Arc::new(ImageManager::new(client.clone(), events.clone(), images.clone(), records));
    let csi = Arc::new(Csi::new(config.clone(), client.clone(), informers.clone(), events.clone()));
    let local_path = Arc::new(LocalPath::new(config.clone(), client.clone(), informers.clone(), events.clone()));
    let api_synced = Arc::<AtomicBool>::default();
    let (pressures, pressures_seen) = watch::channel(Pressures::default());
    let pods = PodManager::start(Context::new(Handles {
        config: config.clone(),
        client: client.clone(),
        informers: informers.clone(),
        events: events.clone(),
        runtime: runtime.clone(),
        images: image_manager.clone(),
        volumes: Arc::new(VolumeManager::new(
            config.clone(),
            client.clone(),
            image_manager,
            csi.clone(),
            local_path.clone(),
            api_synced.clone(),
        )),
        environment: Environment::new(config.clone(), client.clone(), informers.of::<Service>()),
        user_namespaces,
        local: parts.local,
        quarantine: parts.quarantine,
        api_synced,
        pressures: pressures_seen.clone(),
    }));
    let stats = StatsProvider::new(config.clone(), runtime.clone(), images.folder().into(), pods.clone());
    let reporter = Arc::new(NodeReporter {
        config: config.clone(),
        client: client.clone(),
        informers,
        events,
        runtime: runtime.clone(),
        images: images.clone(),
        network,
        pods: pods.clone(),
        pressures: pressures_seen,
    });
    let evictions = Arc::new(EvictionManager {
        config: config.clone(),
        images,
        pods: pods.clone(),
        stats: stats.clone(),
        pressures,
    });
    tasks::supervise("node-status", move || reporter::run(reporter.clone()));
    tasks::until_done("local-volumes", move || local_path::run(local_path.clone()));
    tasks::until_done("csi-drivers", move || csi::run(csi.clone()));
    tasks::supervise("node-eviction", move || eviction::run(evictions.clone()));
    let server = Arc::new(Server {
        node_name: config.node_name.clone(),
        client,
        pods: pods.clone(),
        runtime,
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
