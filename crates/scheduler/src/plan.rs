//! One scheduling decision: filters, then scores. Pure.

use std::collections::BTreeMap;

use crate::devices::PodDevices;
use crate::filters::{PodVolumes, Rejection, rejection};
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::score::select_host;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;
use informer::Key;

/// The result of a scheduling decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The chosen node.
    Node(String),
    /// No node fits.
    Unschedulable(FitError),
    /// Something is wrong with the pod's claims, whichever the node is.
    Failed(String),
}

/// Why no node fits a pod, by node (upstream's `FitError`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FitError {
    /// The rejection of each node, by its name.
    pub rejections: BTreeMap<String, Rejection>,
}

impl FitError {
    /// Upstream's text: the reasons, each with the number of nodes.
    pub fn message(&self) -> String {
        let reasons = self.rejections.values().flat_map(|rejection| &rejection.reasons);
        fit_error_message(self.rejections.len(), reasons.map(String::as_str))
    }
}

/// Said of nodes where no victim would help.
pub const PREEMPTION_NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// What is said of a pod that no node was looked at for, as something else is missing first (upstream's `PreFilterMsg`).
pub fn unresolvable_message(total: usize, reason: &str) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let preemption = fit_error_message(total, std::iter::repeat_n(PREEMPTION_NOT_HELPFUL, total));
    format!("0/{total} nodes are available: {reason}. preemption: {preemption}")
}

/// `0/3 nodes are available: 1 …, 2 ….`
pub fn fit_error_message<'a>(total: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut list: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    list.sort();
    format!("0/{total} nodes are available: {}.", list.join(", "))
}

/// How many feasible nodes are searched for before they are scored (upstream's `numFeasibleNodesToFind`): in large clusters a good node soon
/// is better than the best one late.
fn num_feasible_nodes_to_find(nodes: usize) -> usize {
    const SMALL: usize = 100;
    if nodes <= SMALL {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SMALL)
}

/// Schedules a pod: the best node, or why none fits.
pub fn schedule_pod(
    key: &Key,
    pod: &PodInfo,
    snapshot: &mut Snapshot,
    volumes: &PodVolumes,
    devices: &mut PodDevices,
    profile: &Profile,
) -> Outcome {
    let topology = Topology::of(pod, snapshot);
    let wanted = num_feasible_nodes_to_find(snapshot.len());
    let mut fit_error = FitError::default();
    let mut fitting: Vec<&NodeState> = Vec::new();
    for state in snapshot.nodes_from_next() {
        let unwanted = || {
            let added = profile.affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
            let suits = state.node.as_deref().is_some_and(|node| placement::node_selector_matches(added, node));
            let reason = "node(s) didn't match scheduler-enforced node affinity";
            (!suits).then(|| Rejection { reasons: vec![reason.into()], resolvable: false })
        };
        let found = rejection(pod, state, volumes, &topology)
            .or_else(unwanted)
            .or_else(|| fits_with_nominated_pods(key, pod, snapshot, state, volumes, &topology))
            .or_else(|| devices.rejection(state.node.as_deref()?));
        if let Some(failure) = devices.failure() {
            return Outcome::Failed(failure.into());
        }
        match found {
            Some(found) => {
                fit_error.rejections.insert(state.name.clone(), found);
            }
            None => fitting.push(state),
        }
        if fitting.len() >= wanted {
            break;
        }
    }
    let Some(last) = fitting.last().map(|s| s.id) else { return Outcome::Unschedulable(fit_error) };
    let best = select_host(pod, &fitting, &topology, devices, snapshot, profile);
    if fitting.len() < snapshot.len() {
        snapshot.next = last + 1;
    }
    Outcome::Node(best)
}

/// Runs the filters with the node's nominated pods of at least the same priority counted on it.
fn fits_with_nominated_pods(
    key: &Key,
    pod: &PodInfo,
    snapshot: &Snapshot,
    state: &NodeState,
    volumes: &PodVolumes,
    topology: &Topology,
) -> Option<Rejection> {
    let kept = snapshot.nominated_with_priority(key, pod, state.id);
    if kept.is_empty() {
        return None;
    }
    let mut state = state.clone();
    kept.into_iter().for_each(|(key, other)| state.put(key.clone(), other.clone()));
    rejection(pod, &state, volumes, topology)
}

#[cfg(test)]
mod tests;
