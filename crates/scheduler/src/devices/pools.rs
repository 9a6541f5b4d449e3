//! Which devices a node can reach: ResourceSlices by pool (upstream's `structured`, `GatherPools`). Pure.

use std::collections::{BTreeSet, HashMap};

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Node, NodeSelector};
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::ResourceExt as _;

/// Driver and pool.
pub type PoolId<'a> = (&'a str, &'a str);
/// A counter of a pool: the name of its set, and its own.
pub type CounterId<'a> = (&'a str, &'a str);

/// Identifies a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The driver's name.
    pub driver: String,
    /// The pool's name.
    pub pool: String,
    /// The device's name in its pool.
    pub device: String,
}

impl DeviceId {
    /// The id of a device of a slice.
    pub fn of(slice: &ResourceSlice, device: &Device) -> Self {
        DeviceId { driver: slice.spec.driver.clone(), pool: slice.spec.pool.name.clone(), device: device.name.clone() }
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// A number of a slice.
pub fn quantity(text: &Text) -> Quantity {
    text.0.parse().unwrap_or_default()
}

/// Whether devices can be taken from a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// All of its slices are there, and agree.
    Complete,
    /// Its driver is still writing its slices.
    Incomplete,
    /// Its slices contradict each other.
    Invalid,
}

/// A pool of devices, as a node sees it.
#[derive(Debug)]
pub struct Pool<'a> {
    /// Which one.
    pub id: PoolId<'a>,
    /// Whether devices can be taken from it.
    pub state: PoolState,
    /// Slices with devices that the node can reach.
    pub reachable: Vec<&'a ResourceSlice>,
    /// Slices with devices of other nodes alone, which may use up the same counters.
    pub others: Vec<&'a ResourceSlice>,
    /// What its devices may use up in all.
    pub counters: HashMap<CounterId<'a>, Quantity>,
}

/// All slices of the cluster, by pool.
pub type SlicesByPool<'a> = HashMap<PoolId<'a>, Vec<&'a ResourceSlice>>;

fn id(slice: &ResourceSlice) -> PoolId<'_> {
    (&slice.spec.driver, &slice.spec.pool.name)
}

/// Sorts slices into their pools.
pub fn by_pool<'a>(slices: impl Iterator<Item = &'a ResourceSlice>) -> SlicesByPool<'a> {
    let mut pools = SlicesByPool::new();
    for slice in slices {
        pools.entry(id(slice)).or_default().push(slice);
    }
    pools
}

/// Whether what is said of nodes is true of this one.
pub fn reaches(node: &Node, name: Option<&str>, all: Option<bool>, selector: Option<&NodeSelector>) -> bool {
    name.is_some_and(|name| node.metadata.name.as_deref() == Some(name))
        || all == Some(true)
        || selector.is_some_and(|selector| placement::node_selector_matches(selector, node))
}

/// Whether a device says itself of which nodes it is, and isn't of this one.
pub fn is_elsewhere(node: &Node, slice: &ResourceSlice, device: &Device) -> bool {
    slice.spec.per_device_node_selection == Some(true)
        && !reaches(node, device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())
}

fn is_reachable(node: &Node, slice: &ResourceSlice) -> bool {
    let spec = &slice.spec;
    if spec.per_device_node_selection == Some(true) {
        return spec.devices.iter().flatten().any(|device| !is_elsewhere(node, slice, device));
    }
    reaches(
        node,
        spec.node_name.as_deref().filter(|name| !name.is_empty()),
        spec.all_nodes,
        spec.node_selector.as_ref(),
    )
}

/// The pools with devices that a node can reach, in the order in which devices are taken from them.
pub fn of_node<'a>(node: &Node, all: &SlicesByPool<'a>) -> Vec<Pool<'a>> {
    let mut ids: Vec<&PoolId<'a>> = all.keys().collect();
    ids.sort();
    ids.into_iter().filter_map(|id| pool_of_node(node, *id, &all[id])).collect()
}

fn pool_of_node<'a>(node: &Node, id: PoolId<'a>, all: &[&'a ResourceSlice]) -> Option<Pool<'a>> {
    let reachable: Vec<&ResourceSlice> = all.iter().copied().filter(|slice| is_reachable(node, slice)).collect();
    let newest_here = reachable.iter().map(|slice| slice.spec.pool.generation).max()?;
    // A newer generation has no device for this node: what is here is old.
    if all.iter().any(|slice| slice.spec.pool.generation > newest_here) {
        return None;
    }
    let is_current = |slice: &&ResourceSlice| slice.spec.pool.generation == newest_here;
    let mut current: Vec<&ResourceSlice> = all.iter().copied().filter(is_current).collect();
    current.sort_by_key(|slice| slice.name_any());
    let wanted = current.first()?.spec.pool.resource_slice_count;
    let mut pool =
        Pool { id, state: PoolState::Incomplete, reachable: Vec::new(), others: Vec::new(), counters: HashMap::new() };
    if i64::try_from(current.len()) != Ok(wanted) {
        return Some(pool);
    }
    let has_counters = |slice: &&ResourceSlice| slice.spec.shared_counters.as_ref().is_some_and(|c| !c.is_empty());
    let (counters, devices): (Vec<_>, Vec<_>) = current.into_iter().partition(has_counters);
    (pool.reachable, pool.others) = devices.into_iter().partition(|slice| is_reachable(node, slice));
    let is_sound =
        has_own_names(&pool.reachable) && add_counters(&mut pool, &counters) && consumes_what_is_there(&pool);
    pool.state = if is_sound { PoolState::Complete } else { PoolState::Invalid };
    Some(pool)
}

/// Whether no two devices have one name.
fn has_own_names(slices: &[&ResourceSlice]) -> bool {
    let mut names = BTreeSet::new();
    slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).all(|device| names.insert(&device.name))
}

/// Whether no two sets of counters have one name.
fn add_counters<'a>(pool: &mut Pool<'a>, slices: &[&'a ResourceSlice]) -> bool {
    let mut sets = BTreeSet::new();
    for set in slices.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten()) {
        if !sets.insert(&set.name) {
            return false;
        }
        let counters =
            set.counters.iter().map(|(name, counter)| ((set.name.as_str(), name.as_str()), quantity(&counter.value)));
        pool.counters.extend(counters);
    }
    true
}

/// What a device uses up of the counters of its pool.
pub fn consumption(device: &Device) -> impl Iterator<Item = (CounterId<'_>, Quantity)> {
    device.consumes_counters.iter().flatten().flat_map(|set| {
        set.counters.iter().map(|(name, counter)| ((set.counter_set.as_str(), name.as_str()), quantity(&counter.value)))
    })
}

/// Whether the counters that devices use up are there.
fn consumes_what_is_there(pool: &Pool<'_>) -> bool {
    let slices = pool.reachable.iter().chain(&pool.others);
    let mut devices = slices.flat_map(|slice| slice.spec.devices.iter().flatten());
    devices.all(|device| consumption(device).all(|(counter, _)| pool.counters.contains_key(&counter)))
}

/// What the devices that claims have leave of a pool's counters.
pub fn counters_left<'a>(
    pool: &Pool<'a>,
    is_allocated: &dyn Fn(&DeviceId) -> bool,
) -> HashMap<CounterId<'a>, Quantity> {
    let mut left = pool.counters.clone();
    for slice in pool.reachable.iter().chain(&pool.others) {
        for device in slice.spec.devices.iter().flatten() {
            let mut consumed = consumption(device).peekable();
            if consumed.peek().is_none() || !is_allocated(&DeviceId::of(slice, device)) {
                continue;
            }
            for (counter, amount) in consumed {
                if let Some(left) = left.get_mut(&counter) {
                    *left = *left - amount;
                }
            }
        }
    }
    left
}
