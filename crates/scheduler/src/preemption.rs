//! Preemption: the selection of victims (upstream's DefaultPreemption). Pure.
//!
//! On each node where preemption may help, all pods of lower priority are removed from a copy of the snapshot, and as many as possible are
//! added back ("reprieved"): those whose PodDisruptionBudget would be violated first, then by priority. Of all nodes, the one with the lowest
//! cost is chosen (upstream's `pickOneNodeForPreemption`).

use std::collections::BTreeMap;
use std::sync::Arc;

use informer::Key;

use crate::filters::{PodVolumes, rejection};
use crate::plan::{FitError, fit_error_message};
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

/// The cost of a node's victims, in order of importance: violated budgets, highest priority, sum of priorities, number of pods.
type VictimCost = (usize, i32, i64, usize);

/// The node and its victims, or why preemption doesn't help.
pub fn find_candidate(
    pod: &PodInfo,
    snapshot: &Snapshot,
    volumes: &PodVolumes,
    fit_error: &FitError,
    budgets: &impl DisruptionBudgets,
) -> Result<Preemption, String> {
    let total = fit_error.rejections.len();
    let never = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never");
    if never {
        let reasons = fit_error.rejections.values().map(|_| "Preemption is not helpful for scheduling");
        return Err(fit_error_message(total, reasons));
    }
    let topology = Topology::of(pod, snapshot);
    let mut best: Option<(VictimCost, Preemption)> = None;
    let mut reasons = Vec::new();
    for state in snapshot.nodes() {
        let Some(found) = fit_error.rejections.get(&state.name) else { continue };
        if !found.resolvable {
            reasons.push("Preemption is not helpful for scheduling");
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
    let mut left: BTreeMap<String, i32> = BTreeMap::new();
    let mut breaks = |other: &PodInfo| {
        let of = budgets.of(other);
        let broken = of.iter().any(|(name, allowed)| *left.entry(name.clone()).or_insert(*allowed) <= 0);
        of.iter().for_each(|(name, _)| *left.entry(name.clone()).or_default() -= 1);
        broken
    };
    let mut ranked: Vec<(bool, Key, Arc<PodInfo>)> =
        lesser.into_iter().map(|(key, other)| (breaks(&other), key, other)).collect();
    // Order of reprieve: violated budgets, then priority, then earliest start.
    ranked.sort_by_key(|(broken, key, other)| {
        let started = other.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (!*broken, std::cmp::Reverse(other.priority), started, key.clone())
    });
    let mut victims = Vec::new();
    let mut loss: VictimCost = (0, i32::MIN, 0, 0);
    for (broken, key, other) in ranked {
        rest.put(key.clone(), other.clone());
        if fits(&rest) {
            continue;
        }
        rest.take(&key);
        loss.0 += usize::from(broken);
        loss.1 = loss.1.max(other.priority);
        loss.2 += i64::from(other.priority) - i64::from(i32::MIN);
        victims.push(key);
    }
    loss.3 = victims.len();
    (!victims.is_empty()).then_some((loss, victims))
}
