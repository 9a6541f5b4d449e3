//! Devices of the node that its device plugins give to containers (Kubernetes' device plugins, `k8s.io/kubelet/pkg/apis/deviceplugin`):
//! - [`registration`]: the socket by which plugins make themselves known
//! - [`inventory`]: which devices there are, and who has them; pure
//! - [`checkpoint`]: the same on disk
//! - [`claims`]: devices that claims give to pods, which is another way (dynamic resource allocation)
//! - [`pod_resources`]: the same for programs of the node that look on (KEP-606)
//!
//! A container has its devices from its pod's admission to the pod's end. What a plugin says that takes is kept with them, so that a
//! container is started again also while its plugin is away.

mod checkpoint;
pub mod claims;
mod container;
mod inventory;
pub mod pod_resources;
pub mod registration;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::plugins::deviceplugin::device_plugin_client::DevicePluginClient;
use ::plugins::deviceplugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, ContainerPreferredAllocationRequest,
    DevicePluginOptions, Empty, PreStartContainerRequest, PreferredAllocationRequest,
};
use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::config::Config;
use crate::spec::is_sidecar;
pub use container::ContainerDevices;
use inventory::Inventory;
pub use inventory::{AllocationError, Amount};

/// How long a plugin may take to answer (upstream's `KubeletPreStartContainerRPCTimeoutInSecs`, which it has for one call alone).
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that a plugin may say a container is given: it is kept as long as the pod lives.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// A plugin that is connected.
#[derive(Clone)]
struct Plugin {
    /// Tells it from others of the same resource.
    id: u64,
    client: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
}

/// What the pods' room does when the health of pods' devices has changed.
type HealthListener = Box<dyn Fn(BTreeSet<String>) + Send + Sync>;

/// Gives devices to containers.
pub struct DeviceManager {
    folder: PathBuf,
    inventory: Mutex<Inventory>,
    /// The plugin of each resource: the newest, where several have come.
    plugins: Mutex<BTreeMap<String, Plugin>>,
    changed: watch::Sender<()>,
    on_health: OnceLock<HealthListener>,
}

impl DeviceManager {
    /// With what pods have from before.
    pub fn restored(config: &Config) -> Arc<Self> {
        let folder = config.device_plugins_dir();
        let inventory = checkpoint::read(&folder, Instant::now()).unwrap_or_else(|error| {
            tracing::error!(%error, folder = %folder.display(), "failed to read which devices containers have from the checkpoint");
            Inventory::default()
        });
        Arc::new(DeviceManager {
            folder,
            inventory: Mutex::new(inventory),
            plugins: Mutex::default(),
            changed: watch::Sender::default(),
            on_health: OnceLock::new(),
        })
    }

    /// Has the pods' room told of pods whose devices have another health.
    pub fn listen(&self, on_health: impl Fn(BTreeSet<String>) + Send + Sync + 'static) {
        // Only the first counts; there is one.
        let _ = self.on_health.set(Box::new(on_health));
    }

    /// Told when the node has other amounts of a resource.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the node has of each resource at a time.
    pub fn capacity(&self, now: Instant) -> BTreeMap<String, Amount> {
        self.inventory.lock().capacity(now)
    }

    /// When [`DeviceManager::capacity`] changes by itself.
    pub fn next_removal(&self) -> Option<Instant> {
        self.inventory.lock().next_removal()
    }

    /// The API knows what the node had of each resource at that time.
    pub fn told(&self, now: Instant) {
        self.inventory.lock().forget_gone(now);
    }

    /// Raises what the node has for pods to what they were given already: a plugin may be away for a while
    /// (upstream's `sanitizeNodeAllocatable`).
    pub fn raise_to_allocated(&self, allocatable: &mut BTreeMap<String, Quantity>) {
        for (resource, count) in self.inventory.lock().allocated() {
            let count = Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX));
            let present = allocatable.entry(resource).or_insert(count);
            *present = (*present).max(count);
        }
    }

    fn tell_health(&self, pods: BTreeSet<String>) {
        if let Some(listener) = self.on_health.get().filter(|_| !pods.is_empty()) {
            listener(pods);
        }
    }

    /// Writes the checkpoint after a change that no container relies on; a failure is told, and the next change is written with it.
    fn save(&self) {
        if let Err(error) = self.write_checkpoint() {
            tracing::error!(%error, "failed to write which devices containers have to the checkpoint");
        }
    }

    fn write_checkpoint(&self) -> io::Result<()> {
        checkpoint::write(&self.folder, &self.inventory.lock())
    }

    /// The plugin that is asked for a resource.
    fn plugin(&self, resource: &str) -> Result<Plugin, AllocationError> {
        self.plugins.lock().get(resource).cloned().ok_or_else(|| AllocationError::Unhealthy(resource.into()))
    }

    /// Gives all containers of a pod the devices that they ask for. A container is given those first that an init container before it has had.
    ///
    /// # Errors
    /// When there are too few devices, or a plugin refuses; the pod has none then.
    pub async fn allocate(&self, uid: &str, pod: &Pod) -> Result<(), AllocationError> {
        let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
        let init = spec.init_containers.iter().flatten().map(|container| (container, !is_sidecar(container)));
        let containers = init.chain(spec.containers.iter().map(|container| (container, false)));
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut is_changed = false;
        for (container, is_passed_on) in containers {
            for (resource, needed) in self.wanted(container) {
                let of = (uid, container.name.as_str());
                let left = reusable.entry(resource.clone()).or_default();
                match self.allocate_resource(of, &resource, needed, left).await {
                    Ok(chosen) if is_passed_on => left.extend(chosen),
                    Ok(chosen) => chosen.iter().for_each(|id| {
                        left.remove(id);
                    }),
                    Err(error) => {
                        self.release(uid);
                        return Err(error);
                    }
                }
                is_changed = true;
            }
        }
        // A container that runs with devices of which nothing is on disk would lose them to another pod at the next restart.
        if is_changed && let Err(error) = self.write_checkpoint() {
            self.release(uid);
            return Err(AllocationError::Checkpoint(error.to_string()));
        }
        Ok(())
    }

    /// How many devices of which resources a container asks for. Requests of extended resources are their limits.
    fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.iter().flat_map(|r| r.limits.iter().flatten());
        let inventory = self.inventory.lock();
        let wanted = limits.filter(|(resource, _)| inventory.serves(resource)).filter_map(|(resource, amount)| {
            let count = amount.0.parse::<Quantity>().ok()?.value();
            Some((resource.clone(), usize::try_from(count).ok().filter(|count| *count > 0)?))
        });
        wanted.collect()
    }

    /// The devices that a container is given of one resource.
    async fn allocate_resource(
        &self,
        of: (&str, &str),
        resource: &str,
        needed: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<Vec<String>, AllocationError> {
        let Some(candidates) = self.inventory.lock().candidates(of, resource, needed, reusable)? else {
            return Ok(Vec::new());
        };
        let plugin = self.plugin(resource)?;
        let missing = needed.saturating_sub(candidates.reused.len());
        let mut preferred = Vec::new();
        if plugin.options.get_preferred_allocation_available && missing > 0 && missing < candidates.available.len() {
            let request = ContainerPreferredAllocationRequest {
                available_device_i_ds: candidates.available.union(&candidates.reused).cloned().collect(),
                must_include_device_i_ds: candidates.reused.iter().cloned().collect(),
                allocation_size: i32::try_from(needed).unwrap_or(i32::MAX),
            };
            let request = PreferredAllocationRequest { container_requests: vec![request] };
            let mut client = plugin.client.clone();
            let answer = call(resource, client.get_preferred_allocation(request)).await?;
            preferred = answer.container_responses.into_iter().next().map(|r| r.device_i_ds).unwrap_or_default();
        }
        let chosen = self.inventory.lock().reserve(of, resource, needed, reusable, &preferred)?;
        let request = ContainerAllocateRequest { devices_ids: chosen.clone() };
        let mut client = plugin.client;
        let answer = call(resource, client.allocate(AllocateRequest { container_requests: vec![request] })).await?;
        let none = || AllocationError::Plugin {
            resource: resource.into(),
            message: "no containers return in allocation response".into(),
        };
        let response: ContainerAllocateResponse = answer.container_responses.into_iter().next().ok_or_else(none)?;
        if response.encoded_len() > MAX_RESPONSE_BYTES {
            let message = format!("the answer has {} bytes; the most is {MAX_RESPONSE_BYTES}", response.encoded_len());
            return Err(AllocationError::Plugin { resource: resource.into(), message });
        }
        self.inventory.lock().complete(of, resource, response);
        Ok(chosen)
    }

    /// What a container is to be given for its devices. Plugins that want to be told before each start are.
    ///
    /// # Errors
    /// When a plugin that wants to be told isn't there, or refuses.
    pub async fn before_start(&self, uid: &str, container: &Container) -> Result<ContainerDevices, AllocationError> {
        let allocated = self.inventory.lock().of_container(uid, &container.name).cloned().unwrap_or_default();
        for (resource, allocation) in &allocated {
            // One that left can't say any more that it wants to be told, as upstream's can't.
            let Ok(mut plugin) = self.plugin(resource) else { continue };
            if plugin.options.pre_start_required {
                let request = PreStartContainerRequest { devices_ids: allocation.devices.keys().cloned().collect() };
                call(resource, plugin.client.pre_start_container(request)).await?;
            }
        }
        Ok(ContainerDevices::of(allocated.into_values().map(|allocation| allocation.response)))
    }

    /// The pod has ended: others may have its devices.
    pub fn release(&self, uid: &str) {
        if self.inventory.lock().release(uid) {
            self.save();
        }
    }

    /// Of the pods that have devices from before those that aren't `known` are gone.
    pub fn retain(&self, known: &BTreeSet<String>) {
        let gone: Vec<String> =
            self.inventory.lock().allocations().keys().filter(|uid| !known.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.release(uid));
    }

    /// `allocatedResourcesStatus` of a container (KEP-4680): its devices and how they are.
    pub fn status(&self, uid: &str, container: &str) -> Vec<Value> {
        let inventory = self.inventory.lock();
        let Some(allocated) = inventory.of_container(uid, container) else { return Vec::new() };
        let of_resource = |(resource, allocation): (&String, &inventory::Allocation)| {
            let health = |id: &String| if inventory.is_healthy(resource, id) { "Healthy" } else { "Unhealthy" };
            let device = |id: &String| json!({"resourceID": id, "health": health(id)});
            json!({"name": resource, "resources": allocation.devices.keys().map(device).collect::<Vec<_>>()})
        };
        allocated.iter().map(of_resource).collect()
    }
}

/// The answer of a plugin, within [`CALL_TIMEOUT`].
async fn call<T>(
    resource: &str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, AllocationError> {
    let failed = |message: String| AllocationError::Plugin { resource: resource.into(), message };
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(status.message().into())),
        Err(_) => Err(failed(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

/// Asks a plugin which calls it wants.
async fn options(client: &mut DevicePluginClient<Channel>) -> Result<DevicePluginOptions, AllocationError> {
    call("", client.get_device_plugin_options(Empty {})).await
}
