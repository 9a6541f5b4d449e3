//! Which node a pod goes to: filters, then scores. Pure.

use std::collections::BTreeMap;

use crate::filters::{Obstacle, Volumes, obstacle};
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::score::best;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;
use informer::Key;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Node(String),
    Nowhere(Refusal),
}

/// Why a pod can go nowhere, node by node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    pub obstacles: BTreeMap<String, Obstacle>,
}

impl Refusal {
    /// In upstream's words: the reasons, each with how many nodes have it.
    pub fn describe(&self) -> String {
        counted(self.obstacles.len(), self.obstacles.values().map(|o| o.reason.as_str()))
    }
}

/// `0/3 nodes are available: 1 …, 2 ….`
pub fn counted<'a>(total: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut list: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    list.sort();
    format!("0/{total} nodes are available: {}.", list.join(", "))
}

/// How many nodes that would do are looked for before the best of them is taken, as upstream does it: in large clusters
/// a good node soon is better than the best one late.
fn enough(nodes: usize) -> usize {
    const SMALL: usize = 100;
    if nodes <= SMALL {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SMALL)
}

/// The best node for a pod, or why there is none.
pub fn place(key: &Key, pod: &PodInfo, snapshot: &mut Snapshot, volumes: &Volumes, profile: &Profile) -> Outcome {
    let topology = Topology::of(pod, snapshot);
    let wanted = enough(snapshot.len());
    let mut refusal = Refusal::default();
    let mut fitting: Vec<&NodeState> = Vec::new();
    for state in snapshot.nodes_in_turn() {
        let unwanted = || {
            let added = profile.affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
            let suits = state.node.as_deref().is_some_and(|node| placement::matches(added, node));
            let reason = "node(s) didn't match scheduler-enforced node affinity";
            (!suits).then(|| Obstacle { reason: reason.into(), resolvable: false })
        };
        let found = obstacle(pod, state, volumes, &topology)
            .or_else(unwanted)
            .or_else(|| room_is_kept(key, pod, snapshot, state, volumes, &topology));
        match found {
            Some(found) => {
                refusal.obstacles.insert(state.name.clone(), found);
            }
            None => fitting.push(state),
        }
        if fitting.len() >= wanted {
            break;
        }
    }
    let Some(last) = fitting.last().map(|s| s.id) else { return Outcome::Nowhere(refusal) };
    let best = best(pod, &fitting, &topology, snapshot, profile);
    if fitting.len() < snapshot.len() {
        snapshot.next = last + 1;
    }
    Outcome::Node(best)
}

/// Whether a node is full once those are there for whom room is being made.
fn room_is_kept(
    key: &Key,
    pod: &PodInfo,
    snapshot: &Snapshot,
    state: &NodeState,
    volumes: &Volumes,
    topology: &Topology,
) -> Option<Obstacle> {
    let kept = snapshot.kept_for_others(key, pod, state.id);
    if kept.is_empty() {
        return None;
    }
    let mut state = state.clone();
    kept.into_iter().for_each(|(key, other)| state.put(key.clone(), other.clone()));
    obstacle(pod, &state, volumes, topology)
}

#[cfg(test)]
mod tests;
