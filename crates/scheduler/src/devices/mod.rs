//! Devices of pods that claims ask for (dynamic resource allocation, KEP-4381; upstream's `dynamicresources`). Pure but for [`binding`]:
//! - [`PodDevices`]: what the claims of one pod allow on which node
//! - [`pools`]: the devices that a node can reach
//! - [`request`]: what claims ask for
//! - [`selectors`]: which devices the selectors of classes and requests choose
//! - [`constraints`]: what devices must have in common
//! - [`search`]: the first choice that satisfies all
//! - [`result`]: that choice as a claim's status has it

pub(crate) mod binding;
mod constraints;
pub mod pools;
mod request;
mod result;
mod search;
pub mod selectors;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use expressions::Budget;
use k8s_openapi::api::core::v1::{Node, NodeSelector};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClass, DeviceTaint, DeviceTaintRule, ResourceClaim, ResourceSlice,
};
use kube::ResourceExt as _;

use crate::filters::Rejection;
use pools::{DeviceId, Pool};
use request::{Claim, RequestError};
use search::{Candidate, Search, SearchError};
use selectors::{Compiled, SelectorError};

/// How many steps the searches of one scheduling attempt may take (upstream has a time limit of ten seconds for each node instead).
const MAX_STEPS: usize = 200_000;

/// What claims are allocated from.
#[derive(Debug, Default, Clone)]
pub struct Inventory {
    /// All slices.
    pub slices: Vec<Arc<ResourceSlice>>,
    /// Device classes, by name.
    pub classes: HashMap<String, Arc<DeviceClass>>,
    /// Rules that taint devices.
    pub rules: Vec<Arc<DeviceTaintRule>>,
    /// Devices that claims have.
    pub allocated: HashSet<DeviceId>,
    /// Selectors that were compiled before.
    pub compiled: Arc<Compiled>,
}

/// The devices of one pod during one attempt to schedule it.
#[derive(Debug, Default)]
pub struct PodDevices {
    /// The pod's claims.
    claims: Vec<Arc<ResourceClaim>>,
    /// The indices of those that have no devices yet.
    pending: Vec<usize>,
    /// Where those that have some may be used.
    places: Vec<(usize, NodeSelector)>,
    inventory: Inventory,
    budget: Option<Budget>,
    steps: usize,
    /// Whether the selectors of a request choose a device.
    chosen: HashMap<(usize, usize, usize, DeviceId), bool>,
    /// What the pending claims get on each node that suits.
    found: HashMap<String, Vec<AllocationResult>>,
    /// Claims whose devices can't be used on some node.
    unavailable: Vec<usize>,
    /// Something is wrong with a claim, whichever the node is.
    failure: Option<String>,
}

/// Why no node is looked at for a pod.
#[derive(Debug, PartialEq, Eq)]
pub enum DevicesError {
    /// In upstream's words.
    Unresolvable(String),
    /// A claim is wrong.
    Wrong(String),
}

fn unresolvable(reason: impl Into<String>) -> Rejection {
    Rejection { reasons: vec![reason.into()], resolvable: false }
}

impl PodDevices {
    /// The devices of a pod with these claims.
    ///
    /// # Errors
    /// When a class isn't there, or a claim asks for something unknown.
    pub fn of(claims: Vec<Arc<ResourceClaim>>, inventory: Inventory) -> Result<Self, DevicesError> {
        let mut devices = PodDevices { inventory, steps: MAX_STEPS, ..PodDevices::default() };
        for (index, claim) in claims.iter().enumerate() {
            match claim.status.as_ref().and_then(|status| status.allocation.as_ref()) {
                Some(allocation) => {
                    devices.places.extend(allocation.node_selector.clone().map(|selector| (index, selector)));
                }
                None => {
                    request::read(claim, |class| devices.inventory.classes.get(class).cloned()).map_err(
                        |e| match e {
                            RequestError::Unresolvable(why) => DevicesError::Unresolvable(why),
                            RequestError::Wrong(why) => DevicesError::Wrong(why),
                        },
                    )?;
                    devices.pending.push(index);
                }
            }
        }
        devices.claims = claims;
        devices.budget = Some(Budget::new(Budget::REQUEST));
        Ok(devices)
    }

    /// The pod's claims.
    pub fn claims(&self) -> &[Arc<ResourceClaim>] {
        &self.claims
    }

    /// Whether the pod has no claims.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// What is wrong with a claim, if that was found out.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// A claim that only this pod uses, and whose devices keep it from some node: to give them back lets it choose others.
    pub fn to_deallocate(&self, uid: &str) -> Option<&Arc<ResourceClaim>> {
        let is_own = |claim: &&Arc<ResourceClaim>| {
            let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            users.into_iter().all(|user| user.uid == uid)
        };
        self.unavailable.iter().filter_map(|index| self.claims.get(*index)).find(is_own)
    }

    /// What each claim is given on the chosen node; none for one that has its devices already.
    pub fn allocations(&mut self, node: &str) -> Vec<(Arc<ResourceClaim>, Option<AllocationResult>)> {
        let mut found = self.found.remove(node).unwrap_or_default().into_iter();
        let given = |(index, claim): (usize, &Arc<ResourceClaim>)| {
            let is_pending = self.pending.contains(&index);
            (claim.clone(), if is_pending { found.next() } else { None })
        };
        self.claims.iter().enumerate().map(given).collect()
    }

    /// How good a node is: the better, the earlier those under `firstAvailable` are that it can satisfy (KEP-4816).
    pub fn score(&self, node: &str) -> i64 {
        let mut found = self.found.get(node).into_iter().flatten();
        let of_claim = |claim: &Arc<ResourceClaim>| {
            let own = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
            own.or_else(|| found.next()).map_or(0, |allocation| request::score(claim, allocation))
        };
        self.claims.iter().map(of_claim).sum()
    }

    /// Why the pod's claims don't allow a node, if they don't (upstream's Filter).
    pub fn rejection(&mut self, node: &Node) -> Option<Rejection> {
        if self.claims.is_empty() {
            return None;
        }
        let elsewhere = |(_, place): &&(usize, NodeSelector)| !placement::node_selector_matches(place, node);
        let unavailable: Vec<usize> = self.places.iter().filter(elsewhere).map(|(index, _)| *index).collect();
        if !unavailable.is_empty() {
            self.unavailable.extend(unavailable);
            return Some(unresolvable("resourceclaim not available on the node"));
        }
        if self.pending.is_empty() {
            return None;
        }
        if let Some(failure) = &self.failure {
            return Some(unresolvable(failure));
        }
        match self.allocate(node) {
            Ok(Some(results)) => {
                self.found.insert(node.name_any(), results);
                None
            }
            Ok(None) => Some(unresolvable("cannot allocate all claims")),
            Err(SearchError::Steps) => {
                let why = format!("node {}: timed out trying to allocate devices", node.name_any());
                Some(unresolvable(why))
            }
            Err(SearchError::Invalid) => Some(unresolvable("invalid resource pools were encountered")),
            Err(SearchError::Wrong(why)) => {
                self.failure = Some(why.clone());
                Some(unresolvable(why))
            }
        }
    }

    fn allocate(&mut self, node: &Node) -> Result<Option<Vec<AllocationResult>>, SearchError> {
        let Inventory { slices, classes, rules, allocated, compiled } = &self.inventory;
        let by_pool = pools::by_pool(slices.iter().map(|slice| &**slice));
        let pools = pools::of_node(node, &by_pool);
        let mut claims = Vec::with_capacity(self.pending.len());
        for claim in self.pending.iter().filter_map(|index| self.claims.get(*index)) {
            let read = request::read(claim, |class| classes.get(class).cloned());
            claims.push(
                read.map_err(|(RequestError::Unresolvable(why) | RequestError::Wrong(why))| SearchError::Wrong(why))?,
            );
        }
        let candidates = candidates(node, &pools, rules, allocated);
        let (chosen, unlimited) = (&mut self.chosen, Budget::new(Budget::REQUEST));
        let budget = self.budget.as_ref().unwrap_or(&unlimited);
        let mut chooses = |claim: usize, request: usize, alternative: usize, candidate: &Candidate<'_>| {
            let key = (claim, request, alternative, candidate.id.clone());
            if let Some(present) = chosen.get(&key) {
                return Ok(*present);
            }
            let is = is_chosen(compiled, budget, &claims[claim], request, alternative, candidate)?;
            chosen.insert(key, is);
            Ok(is)
        };
        let is_allocated = |id: &DeviceId| allocated.contains(id);
        let search = Search::new(&claims, &pools, &candidates, &is_allocated, &mut chooses, &mut self.steps)?;
        let Some(found) = search.run()? else {
            let is_invalid = |pool: &Pool<'_>| pool.state == pools::PoolState::Invalid;
            return match pools.iter().any(is_invalid) {
                true => Err(SearchError::Invalid),
                false => Ok(None),
            };
        };
        let of_claim = |(claim, chosen): (&Claim<'_>, &Vec<search::Chosen>)| {
            result::allocation(claim, chosen, &candidates, &node.name_any())
        };
        Ok(Some(claims.iter().zip(&found).map(of_claim).collect()))
    }
}

/// Whether the selectors of a request's class, and its own, choose a device.
fn is_chosen(
    compiled: &Compiled,
    budget: &Budget,
    claim: &Claim<'_>,
    request: usize,
    alternative: usize,
    candidate: &Candidate<'_>,
) -> Result<bool, SearchError> {
    let Some(alternative) = claim.requests.get(request).and_then(|r| r.alternatives.get(alternative)) else {
        return Ok(false);
    };
    let of_class = alternative.class.spec.as_ref().and_then(|spec| spec.selectors.as_deref()).unwrap_or_default();
    let class = format!("class {}", alternative.class.name_any());
    let own = format!("claim {}", request::full_name(claim.claim));
    for (owner, selectors) in [(class, of_class), (own, alternative.selectors)] {
        let chosen = selectors::choose(compiled, budget, &owner, selectors, &candidate.id, candidate.device);
        match chosen {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(SelectorError::Budget) => return Err(SearchError::Steps),
            Err(SelectorError::Wrong(why)) => return Err(SearchError::Wrong(why)),
        }
    }
    Ok(true)
}

/// The devices that a node can reach, in the order in which they are tried.
fn candidates<'a>(
    node: &Node,
    pools: &[Pool<'a>],
    rules: &[Arc<DeviceTaintRule>],
    allocated: &HashSet<DeviceId>,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (pool, of) in pools.iter().enumerate() {
        for slice in &of.reachable {
            let devices = slice.spec.devices.iter().flatten().filter(|d| !pools::is_elsewhere(node, slice, d));
            // Devices that are made ready after the choice (KEP-5007) are left out, as upstream does it without that feature.
            for device in devices.filter(|device| device.binding_conditions.as_ref().is_none_or(Vec::is_empty)) {
                let id = DeviceId::of(slice, device);
                let is_about =
                    |rule: &&Arc<DeviceTaintRule>| placement::rule_taints(rule, (&id.driver, &id.pool, &id.device));
                let of_rules = rules.iter().filter(is_about).map(|rule| rule.spec.taint.clone());
                let taints: Vec<DeviceTaint> = device.taints.iter().flatten().cloned().chain(of_rules).collect();
                let is_allocated = allocated.contains(&id);
                candidates.push(Candidate { id, device, slice, pool, taints, is_allocated });
            }
        }
    }
    candidates
}

/// The devices that claims have. Those with access for administrators take none from others.
pub fn allocated<'a>(allocations: impl Iterator<Item = &'a AllocationResult>) -> HashSet<DeviceId> {
    let results = allocations.flat_map(|a| a.devices.iter().flat_map(|devices| devices.results.iter().flatten()));
    let id = |r: &k8s_openapi::api::resource::v1::DeviceRequestAllocationResult| DeviceId {
        driver: r.driver.clone(),
        pool: r.pool.clone(),
        device: r.device.clone(),
    };
    results.filter(|result| result.admin_access != Some(true)).map(id).collect()
}

/// Device classes by name.
pub fn classes(list: impl IntoIterator<Item = Arc<DeviceClass>>) -> HashMap<String, Arc<DeviceClass>> {
    list.into_iter().map(|class| (class.name_any(), class)).collect()
}

#[cfg(test)]
mod tests;
