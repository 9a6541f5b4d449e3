//! Preemption: the selection of victims (upstream's DefaultPreemption). Pure.
//!
//! On each node where preemption may help, all pods of lower priority are removed from a copy of the snapshot, and as many as possible are
//! added back ("reprieved"): those whose PodDisruptionBudget would be violated first, then by priority. Of all nodes, the one with the lowest
//! cost is chosen (upstream's `pickOneNodeForPreemption`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use informer::Key;
use k8s_openapi::jiff::Timestamp;

use crate::devices::PodDevices;
use crate::filters::{PodVolumes, rejection};
use crate::plan::{FitError, PREEMPTION_NOT_HELPFUL, fit_error_message};
use crate::pod::PodInfo;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

/// The PodDisruptionBudgets of pods.
pub trait DisruptionBudgets {
    /// The budgets of a pod, each with its `disruptionsAllowed`.
    fn of(&self, pod: &PodInfo) -> Vec<(String, i32)>;
}

/// The result of a preemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// The node where the pod is nominated.
    pub node: String,
    /// The pods to evict.
    pub victims: Vec<Key>,
}

/// The cost of a node's victims, in order of importance: violated budgets, highest priority, sum of priorities, number of pods; and of nodes that cost
/// the same, that is chosen whose most important victims began last.
type VictimCost = (usize, i32, i64, usize, Reverse<Timestamp>);

/// When a pod was started, which one without a status is just now.
fn start(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0)
}

/// Whether a pod may make others go, in upstream's words if not: it may refuse, or wait for victims that end.
fn eligibility(pod: &PodInfo, snapshot: &Snapshot) -> Result<(), &'static str> {
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
    let Some(state) = nominated.and_then(|name| snapshot.node_by_name(name)) else { return Ok(()) };
    let goes = |other: &PodInfo| other.group_key.is_ending && other.priority < pod.priority && is_victim(other);
    match state.pods.values().any(|other| goes(other)) {
        true => Err("not eligible due to a terminating pod on the nominated node."),
        false => Ok(()),
    }
}

/// Whether a pod has to go for another one.
fn is_victim(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| {
        c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

/// The node and its victims.
///
/// # Errors
/// In upstream's words, why preemption doesn't help: the pod never preempts, waits for victims that end, or no node would have room.
pub fn find_candidate(
    pod: &PodInfo,
    snapshot: &Snapshot,
    volumes: &PodVolumes,
    devices: &mut PodDevices,
    fit_error: &FitError,
    budgets: &impl DisruptionBudgets,
) -> Result<Preemption, String> {
    let total = fit_error.rejections.len();
    eligibility(pod, snapshot)?;
    let topology = Topology::of(pod, snapshot);
    let mut best: Option<(VictimCost, Preemption)> = None;
    let mut reasons = Vec::new();
    for state in snapshot.nodes() {
        let Some(found) = fit_error.rejections.get(&state.name) else { continue };
        if !found.resolvable {
            reasons.push(PREEMPTION_NOT_HELPFUL);
            continue;
        }
        // Victims that end give no devices back in time.
        if state.node.as_deref().is_some_and(|node| devices.rejection(node).is_some()) {
            reasons.push("No preemption victims found for incoming pod");
            continue;
        }
        match select_victims_on_node(pod, state, snapshot, volumes, &topology, budgets) {
            Some((loss, victims)) => {
                if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                    best = Some((loss, Preemption { node: state.name.clone(), victims }));
                }
            }
            None => reasons.push("No preemption victims found for incoming pod"),
        }
    }
    best.map(|(_, preemption)| preemption).ok_or_else(|| fit_error_message(total, reasons.into_iter()))
}

/// Pods of lower priority, those that are rather kept first. The flag says whether the pod's eviction would violate a budget.
fn in_order_of_reprieve(
    mut lesser: Vec<(Key, Arc<PodInfo>)>,
    budgets: &impl DisruptionBudgets,
) -> Vec<(bool, Key, Arc<PodInfo>)> {
    // The more important ones are within the budgets first, and stay first: by priority, then who began earlier.
    lesser.sort_by_key(|(key, other)| (Reverse(other.priority), start(other), key.clone()));
    let mut left: BTreeMap<String, i32> = BTreeMap::new();
    let mut breaks = |other: &PodInfo| {
        let of = budgets.of(other);
        let broken = of.iter().any(|(name, allowed)| *left.entry(name.clone()).or_insert(*allowed) <= 0);
        of.iter().for_each(|(name, _)| *left.entry(name.clone()).or_default() -= 1);
        broken
    };
    let mut ranked: Vec<_> = lesser.into_iter().map(|(key, other)| (breaks(&other), key, other)).collect();
    // Those that no budget lets go are tried first.
    ranked.sort_by_key(|(broken, ..)| !*broken);
    ranked
}

fn select_victims_on_node(
    pod: &PodInfo,
    state: &NodeState,
    snapshot: &Snapshot,
    volumes: &PodVolumes,
    topology: &Topology,
    budgets: &impl DisruptionBudgets,
) -> Option<(VictimCost, Vec<Key>)> {
    let mut rest = state.clone();
    let lesser: Vec<(Key, Arc<PodInfo>)> = state
        .pods
        .iter()
        .filter(|(_, other)| other.priority < pod.priority)
        .map(|(key, other)| (key.clone(), other.clone()))
        .collect();
    if lesser.is_empty() {
        return None;
    }
    for (key, _) in &lesser {
        rest.take(key);
    }
    // Inter-pod affinity changes when pods are removed.
    let fits = |rest: &NodeState| {
        let plain = pod.affinity.is_empty() && pod.anti_affinity.is_empty() && pod.spread.is_empty();
        if plain && !state.pods.values().any(|p| !p.anti_affinity.is_empty()) {
            return rejection(pod, rest, volumes, topology).is_none();
        }
        let without = snapshot.without(state.pods.keys().filter(|key| !rest.pods.contains_key(key)));
        rejection(pod, rest, volumes, &Topology::of(pod, &without)).is_none()
    };
    if !fits(&rest) {
        return None;
    }
    let mut victims = Vec::new();
    let mut loss: VictimCost = (0, i32::MIN, 0, 0, Reverse(Timestamp::MAX));
    for (broken, key, other) in in_order_of_reprieve(lesser, budgets) {
        rest.put(key.clone(), other.clone());
        if fits(&rest) {
            continue;
        }
        rest.take(&key);
        loss.0 += usize::from(broken);
        // Of the most important victims the one that began first counts.
        if other.priority > loss.1 {
            (loss.1, loss.4) = (other.priority, Reverse(start(&other)));
        } else if other.priority == loss.1 {
            loss.4 = loss.4.max(Reverse(start(&other)));
        }
        loss.2 += i64::from(other.priority) - i64::from(i32::MIN);
        victims.push(key);
    }
    loss.3 = victims.len();
    (!victims.is_empty()).then_some((loss, victims))
}
