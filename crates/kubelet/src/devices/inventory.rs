//! Which devices there are, how they are, and which containers have them. Pure; upstream's device manager (`pkg/kubelet/cm/devicemanager`)
//! keeps the same books.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plugins::deviceplugin::{ContainerAllocateResponse, Device as PluginDevice, HEALTHY};
use tokio::time::Instant;

/// How long a resource stays in the node's capacity after its last plugin left (upstream's `endpointStopGracePeriod`).
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(5 * 60);
/// The most devices of a resource, and the longest of their ids in bytes; what a plugin tells beyond that is left out.
pub const MAX_DEVICES: usize = 16 << 10;
const MAX_ID_BYTES: usize = 1024;
/// The most devices of all resources.
const MAX_ALL_DEVICES: usize = 64 << 10;
/// The most NUMA nodes of a device.
const MAX_NODES: usize = 64;
/// The most resources of a node.
pub const MAX_RESOURCES: usize = 256;

/// Why a container can't have its devices, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// Nobody offers the resource.
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    /// Its plugin is gone, or says that all devices are unhealthy.
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    Unhealthy(String),
    /// The container has devices already, and they aren't healthy any more.
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    Sick(String),
    /// Too few are free.
    #[error("requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}")]
    Unavailable {
        /// The resource.
        resource: String,
        /// How many devices are asked for beside those that an init container leaves.
        requested: usize,
        /// How many healthy devices nobody has.
        available: usize,
    },
    /// A plugin refuses, or doesn't answer.
    #[error("rpc error: device plugin of {resource}: {message}")]
    Plugin {
        /// The resource.
        resource: String,
        /// What the plugin says.
        message: String,
    },
    /// Who has what can't be written down.
    #[error("failed to write the checkpoint of devices: {0}")]
    Checkpoint(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    is_healthy: bool,
    /// NUMA nodes.
    nodes: Vec<i64>,
}

/// A resource that a plugin offers, or did until a moment ago.
#[derive(Debug, Default)]
struct Resource {
    devices: BTreeMap<String, Device>,
    /// Since when no plugin offers it.
    unserved_since: Option<Instant>,
}

impl Resource {
    /// Whether no plugin has offered it for so long that none is waited for.
    fn is_gone(&self, now: Instant) -> bool {
        self.unserved_since.is_some_and(|since| now.saturating_duration_since(since) >= STOP_GRACE_PERIOD)
    }

    fn healthy(&self) -> impl Iterator<Item = &String> {
        self.devices.iter().filter(|(_, device)| device.is_healthy).map(|(id, _)| id)
    }
}

/// What a container has of one resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocation {
    /// The devices' ids, each with its NUMA nodes.
    pub devices: BTreeMap<String, Vec<i64>>,
    /// What the plugin said the container is to be given.
    pub response: ContainerAllocateResponse,
}

/// What containers of a pod have, by container and resource.
pub type PodAllocations = BTreeMap<String, BTreeMap<String, Allocation>>;

/// What the node has of a resource: all of its devices, and the healthy ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// `status.capacity`
    pub capacity: usize,
    /// `status.allocatable`
    pub allocatable: usize,
}

/// Devices that a container may be given.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Those that an init container of the pod has had; they are given first.
    pub reused: BTreeSet<String>,
    /// Healthy ones that nobody has.
    pub available: BTreeSet<String>,
    /// How many are needed in all.
    pub needed: usize,
}

impl Candidates {
    /// The devices that are given: those to be reused, then preferred ones, then the others in the order of their ids.
    fn choose(&self, preferred: &[String]) -> BTreeSet<String> {
        let preferred = preferred.iter().filter(|id| self.available.contains(*id));
        let mut chosen = BTreeSet::new();
        for id in self.reused.iter().chain(preferred).chain(&self.available) {
            if chosen.len() == self.needed {
                break;
            }
            chosen.insert(id.clone());
        }
        chosen
    }
}

/// The devices of a node.
#[derive(Debug, Default)]
pub struct Inventory {
    resources: BTreeMap<String, Resource>,
    /// By the pod's uid.
    allocations: BTreeMap<String, PodAllocations>,
}

impl Inventory {
    /// As it was written down: pods keep their devices; of the resources it isn't known what they have, until their plugins come.
    pub fn restored(resources: Vec<String>, allocations: BTreeMap<String, PodAllocations>, now: Instant) -> Self {
        let awaited = || Resource { unserved_since: Some(now), ..Resource::default() };
        let resources = resources.into_iter().take(MAX_RESOURCES).map(|name| (name, awaited())).collect();
        Inventory { resources, allocations }
    }

    /// The names of all resources.
    pub fn resources(&self) -> impl Iterator<Item = &String> {
        self.resources.keys()
    }

    /// Who has what, by the pod's uid.
    pub fn allocations(&self) -> &BTreeMap<String, PodAllocations> {
        &self.allocations
    }

    /// Whether another resource may be offered.
    pub fn has_room_for(&self, resource: &str) -> bool {
        self.resources.len() < MAX_RESOURCES || self.resources.contains_key(resource)
    }

    /// Whether devices of this resource are given by a plugin.
    pub fn serves(&self, resource: &str) -> bool {
        let allocated = || self.of_resource(resource).next().is_some();
        self.resources.contains_key(resource) || allocated()
    }

    /// All allocations of a resource, with their pods' uids.
    fn of_resource<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = (&'a String, &'a Allocation)> {
        let of_pod = move |(uid, pod): (&'a String, &'a PodAllocations)| {
            pod.values().filter_map(move |container| Some((uid, container.get(resource)?))).collect::<Vec<_>>()
        };
        self.allocations.iter().flat_map(of_pod)
    }

    fn in_use<'a>(&'a self, resource: &'a str) -> BTreeSet<&'a String> {
        self.of_resource(resource).flat_map(|(_, allocation)| allocation.devices.keys()).collect()
    }

    /// A plugin offers this resource now.
    pub fn connected(&mut self, resource: &str) {
        self.resources.entry(resource.into()).or_default().unserved_since = None;
    }

    /// The last plugin of a resource is gone: its devices are unhealthy, and after a while forgotten. The pods that have some of them are returned.
    pub fn disconnected(&mut self, resource: &str, now: Instant) -> BTreeSet<String> {
        let Some(known) = self.resources.get_mut(resource) else { return BTreeSet::new() };
        known.unserved_since = Some(now);
        known.devices.values_mut().for_each(|device| device.is_healthy = false);
        self.of_resource(resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// What a plugin says of its devices, all of them. The pods that have a device whose health is another now are returned.
    pub fn update(&mut self, resource: &str, devices: Vec<PluginDevice>) -> BTreeSet<String> {
        let device = |device: PluginDevice| {
            let nodes = device.topology.into_iter().flat_map(|t| t.nodes).map(|n| n.id).take(MAX_NODES).collect();
            (device.id, Device { is_healthy: device.health == HEALTHY, nodes })
        };
        let is_short = |device: &PluginDevice| device.id.len() <= MAX_ID_BYTES;
        let others = self.resources.iter().filter(|(name, _)| *name != resource).map(|(_, r)| r.devices.len());
        let room = MAX_ALL_DEVICES.saturating_sub(others.sum()).min(MAX_DEVICES);
        let now: BTreeMap<String, Device> = devices.into_iter().filter(is_short).take(room).map(device).collect();
        let known = self.resources.entry(resource.into()).or_default();
        let before = std::mem::replace(&mut known.devices, now);
        let known = &self.resources[resource].devices;
        let is_other = |id: &String| before.get(id).map(|d| d.is_healthy) != known.get(id).map(|d| d.is_healthy);
        self.of_resource(resource).filter(|(_, a)| a.devices.keys().any(is_other)).map(|(uid, _)| uid.clone()).collect()
    }

    /// What the node has of each resource; nothing of what no plugin has offered for a while.
    pub fn capacity(&self, now: Instant) -> BTreeMap<String, Amount> {
        let amount = |resource: &Resource| match resource.is_gone(now) {
            true => Amount { capacity: 0, allocatable: 0 },
            false => Amount { capacity: resource.devices.len(), allocatable: resource.healthy().count() },
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), amount(resource))).collect()
    }

    /// Forgets what no plugin has offered for a while, once the API was told that the node has none of it.
    pub fn forget_gone(&mut self, now: Instant) {
        self.resources.retain(|_, resource| !resource.is_gone(now));
    }

    /// When [`Inventory::capacity`] changes by itself.
    pub fn next_removal(&self) -> Option<Instant> {
        self.resources.values().filter_map(|r| r.unserved_since?.checked_add(STOP_GRACE_PERIOD)).min()
    }

    /// How many devices of each resource pods have, which the node must have for them also while its plugins are away.
    pub fn allocated(&self) -> BTreeMap<String, usize> {
        let mut devices: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for (resource, allocation) in self.allocations.values().flat_map(BTreeMap::values).flatten() {
            devices.entry(resource).or_default().extend(allocation.devices.keys());
        }
        devices.into_iter().map(|(resource, ids)| (resource.clone(), ids.len())).collect()
    }

    /// Which devices a container may be given; none if it has them already.
    ///
    /// # Errors
    /// When there are too few, or they aren't healthy.
    pub fn candidates(
        &self,
        (uid, container): (&str, &str),
        resource: &str,
        needed: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<Option<Candidates>, AllocationError> {
        let known = self.resources.get(resource).ok_or_else(|| AllocationError::Unregistered(resource.into()))?;
        let healthy: BTreeSet<&String> = known.healthy().collect();
        if healthy.is_empty() {
            return Err(AllocationError::Unhealthy(resource.into()));
        }
        if let Some(present) = self.allocations.get(uid).and_then(|pod| pod.get(container)?.get(resource)) {
            if !present.devices.keys().all(|id| healthy.contains(id)) {
                return Err(AllocationError::Sick(resource.into()));
            }
            return Ok(None);
        }
        let in_use = self.in_use(resource);
        let available: BTreeSet<String> = healthy.into_iter().filter(|id| !in_use.contains(id)).cloned().collect();
        let reused: BTreeSet<String> = reusable.iter().take(needed).cloned().collect();
        let requested = needed - reused.len();
        if available.len() < requested {
            let resource = resource.into();
            return Err(AllocationError::Unavailable { resource, requested, available: available.len() });
        }
        Ok(Some(Candidates { reused, available, needed }))
    }

    /// Gives a container its devices, in the order of [`Candidates::choose`], before its plugin is asked what that takes: nobody else gets them meanwhile.
    ///
    /// # Errors
    /// As [`Inventory::candidates`]: others may have been faster.
    pub fn reserve(
        &mut self,
        of: (&str, &str),
        resource: &str,
        needed: usize,
        reusable: &BTreeSet<String>,
        preferred: &[String],
    ) -> Result<Vec<String>, AllocationError> {
        let Some(candidates) = self.candidates(of, resource, needed, reusable)? else { return Ok(Vec::new()) };
        let chosen = candidates.choose(preferred);
        let known = self.resources.get(resource);
        let nodes = |id: &String| known.and_then(|r| r.devices.get(id)).map(|d| d.nodes.clone()).unwrap_or_default();
        let devices = chosen.iter().map(|id| (id.clone(), nodes(id))).collect();
        let allocation = Allocation { devices, ..Allocation::default() };
        let pod = self.allocations.entry(of.0.into()).or_default();
        pod.entry(of.1.into()).or_default().insert(resource.into(), allocation);
        Ok(chosen.into_iter().collect())
    }

    /// What the plugin said of devices that were reserved.
    pub fn complete(&mut self, (uid, container): (&str, &str), resource: &str, response: ContainerAllocateResponse) {
        let pod = self.allocations.get_mut(uid);
        if let Some(allocation) = pod.and_then(|pod| pod.get_mut(container)?.get_mut(resource)) {
            allocation.response = response;
        }
    }

    /// What a container has.
    pub fn of_container(&self, uid: &str, container: &str) -> Option<&BTreeMap<String, Allocation>> {
        self.allocations.get(uid)?.get(container)
    }

    /// The pod has ended: others may have its devices. Whether it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        self.allocations.remove(uid).is_some()
    }

    /// Whether a device is healthy, as far as that is known.
    pub fn is_healthy(&self, resource: &str, device: &str) -> bool {
        let known = self.resources.get(resource).and_then(|r| r.devices.get(device));
        known.is_none_or(|device| device.is_healthy)
    }

    /// All healthy devices with their NUMA nodes, by resource.
    pub fn allocatable(&self) -> impl Iterator<Item = (&String, &String, &Vec<i64>)> {
        self.resources.iter().flat_map(|(name, resource)| {
            resource.devices.iter().filter(|(_, d)| d.is_healthy).map(move |(id, device)| (name, id, &device.nodes))
        })
    }
}

#[cfg(test)]
mod tests;
