//! What the parts of this room share, and what they ask of other rooms.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use informer::{Informers, Quarantine, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use network::LocalPods;
use tokio::sync::watch;

use super::admission::{PodAdmission, Pressures};
use super::probes::{Hook, HookError};
use super::shutdown::Shutdown;
use super::static_pods::StaticPods;
use super::workers::Workers;
use crate::config::Config;
use crate::container_runtime::{ContainerRuntime, user_namespaces};
use crate::devices::DeviceManager;
use crate::devices::claims::ClaimManager;
use crate::environment::Environment;
use crate::images::ImageManager;
use crate::volumes::VolumeManager;
use crate::volumes::watch::SourceWatches;

/// What pods need of the other rooms.
pub struct Handles {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// A client of the API.
    pub client: Client,
    /// Caches of the API's objects.
    pub informers: Informers,
    /// Records events.
    pub events: Recorder,
    /// Runs sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Gets images.
    pub images: Arc<ImageManager>,
    /// Makes volumes.
    pub volumes: Arc<VolumeManager>,
    /// Makes environments.
    pub environment: Environment,
    /// Gives devices of the node.
    pub devices: Arc<DeviceManager>,
    /// Has the devices of claims prepared.
    pub claims: Arc<ClaimManager>,
    /// Ranges of user ids.
    pub user_namespaces: Arc<user_namespaces::Ranges>,
    /// The pods of this node with their addresses, for network policies and DNS, which must know them before the API does.
    pub local: LocalPods,
    /// Pods whose handling ended the process.
    pub quarantine: Quarantine,
    /// Set once the API has said which pods this node has.
    pub api_synced: Arc<AtomicBool>,
    /// Under which pressure the node is.
    pub pressures: watch::Receiver<Pressures>,
}

/// The handles, and the state of this room.
pub struct Context {
    pub(super) config: Arc<Config>,
    pub(super) client: Client,
    pub(super) informers: Informers,
    pub(super) events: Recorder,
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) images: Arc<ImageManager>,
    pub(super) volumes: Arc<VolumeManager>,
    pub(super) environment: Environment,
    pub(super) devices: Arc<DeviceManager>,
    pub(super) claims: Arc<ClaimManager>,
    pub(super) user_namespaces: Arc<user_namespaces::Ranges>,
    pub(super) local: LocalPods,
    pub(super) quarantine: Quarantine,
    pub(super) api_synced: Arc<AtomicBool>,
    pub(super) workers: Arc<Workers>,
    pub(super) watches: Arc<SourceWatches>,
    pub(super) admission: PodAdmission,
    pub(super) statics: StaticPods,
    pub(super) shutdown: Shutdown,
}

impl Context {
    /// The state of a kubelet that has no pods yet.
    pub fn new(handles: Handles) -> Arc<Self> {
        let workers = Arc::<Workers>::default();
        let changed = workers.clone();
        let watches = SourceWatches::new(handles.client.clone(), move |uids| changed.refresh_volumes(uids));
        let admission = PodAdmission::new(
            handles.config.clone(),
            handles.client.clone(),
            handles.informers.of::<Node>(),
            handles.events.clone(),
            handles.pressures,
            workers.clone(),
            handles.devices.clone(),
        );
        let woken = workers.clone();
        handles.devices.listen(move |uids| uids.iter().for_each(|uid| woken.wake(uid)));
        Arc::new(Context {
            config: handles.config,
            client: handles.client,
            informers: handles.informers,
            events: handles.events,
            runtime: handles.runtime,
            images: handles.images,
            volumes: handles.volumes,
            environment: handles.environment,
            devices: handles.devices,
            claims: handles.claims,
            user_namespaces: handles.user_namespaces,
            local: handles.local,
            quarantine: handles.quarantine,
            api_synced: handles.api_synced,
            workers,
            watches,
            admission,
            statics: StaticPods::default(),
            shutdown: Shutdown::default(),
        })
    }

    /// Says so when a hook asked by HTTP where its spec says HTTPS.
    pub(super) fn hook_fell_back(&self, pod: &Pod, outcome: &Result<Hook, HookError>) {
        if let Ok(Hook::FellBack(place)) = outcome {
            let why = format!("request to HTTPS lifecycle hook {place} got HTTP response, retry with HTTP succeeded");
            self.events.warning(pod, "LifecycleHTTPFallback", why);
        }
    }
}
