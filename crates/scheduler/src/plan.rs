//! Which node a pod goes to: filters, then scores. Pure.

use std::collections::BTreeMap;

use informer::Key;
use k8s_openapi::api::core::v1::PreferredSchedulingTerm;

use crate::filters::{Obstacle, Volumes, obstacle, soft_taints};
use crate::pod::PodInfo;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

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
pub fn place(key: &Key, pod: &PodInfo, snapshot: &mut Snapshot, volumes: &Volumes) -> Outcome {
    let topology = Topology::of(pod, snapshot);
    let wanted = enough(snapshot.len());
    let mut refusal = Refusal::default();
    let mut fitting: Vec<&NodeState> = Vec::new();
    for state in snapshot.nodes_in_turn() {
        let found = obstacle(pod, state, volumes, &topology)
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
    let best = best(pod, &fitting, &topology, snapshot);
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

/// What one aspect says of a node: any number, made comparable once all nodes are known.
struct Aspect {
    weight: i64,
    raw: Vec<i64>,
    /// Whether less is better.
    inverted: bool,
    /// Whether the least counts as nothing; else zero does.
    from_least: bool,
}

impl Aspect {
    /// From 0 to 100 for each node, times the weight.
    fn scores(&self) -> impl Iterator<Item = i64> + '_ {
        let most = self.raw.iter().copied().max().unwrap_or(0);
        let least = if self.from_least { self.raw.iter().copied().min().unwrap_or(0) } else { 0 };
        self.raw.iter().map(move |raw| {
            let share = if most > least { (raw - least) * 100 / (most - least) } else { 0 };
            self.weight * if self.inverted { 100 - share } else { share }
        })
    }
}

fn best(pod: &PodInfo, nodes: &[&NodeState], topology: &Topology, snapshot: &Snapshot) -> String {
    let aspect = |weight, inverted, from_least, of: &dyn Fn(&NodeState) -> i64| Aspect {
        weight,
        raw: nodes.iter().map(|s| of(s)).collect(),
        inverted,
        from_least,
    };
    let soft = pod.spread.iter().any(|c| !c.required);
    // Without constraints of its own, a pod is kept apart from those of the same controller.
    let siblings = pod.owner.as_deref().and_then(|owner| snapshot.siblings(owner));
    let crowd = |state: &NodeState| {
        let of_one_controller = || siblings.and_then(|s| s.get(&state.id)).map_or(0, |number| i64::from(*number));
        topology.crowd(pod, state).unwrap_or_else(of_one_controller)
    };
    let aspects = [
        aspect(2, false, false, &|s| preferred(pod, s)),
        aspect(3, true, false, &|s| s.node.as_deref().map_or(0, |n| soft_taints(pod, n))),
        aspect(2, false, true, &|s| topology.preference(s)),
        aspect(if soft { 2 } else { 4 }, true, soft, &crowd),
    ];
    let mut totals: Vec<i64> = nodes.iter().map(|s| room(pod, s)).collect();
    for aspect in &aspects {
        totals.iter_mut().zip(aspect.scores()).for_each(|(total, score)| *total += score);
    }
    let best = totals.iter().enumerate().max_by_key(|(i, total)| (**total, std::cmp::Reverse(*i)));
    best.map(|(i, _)| nodes[i].name.clone()).unwrap_or_default()
}

/// How much room would be left, and how evenly: up to 200.
fn room(pod: &PodInfo, state: &NodeState) -> i64 {
    let share = |used: i64, all: i64| if all <= 0 { 100 } else { (used * 100 / all).min(100) };
    // Pods that ask for nothing still weigh something.
    let cpu = share(state.used.cpu_milli + pod.amounts.cpu_milli.max(100), state.allocatable.cpu_milli);
    let memory = share(state.used.memory + pod.amounts.memory.max(200 << 20), state.allocatable.memory);
    (200 - cpu - memory) / 2 + 100 - (cpu - memory).abs() / 2
}

/// The weights of the node preferences that a node meets.
fn preferred(pod: &PodInfo, state: &NodeState) -> i64 {
    let Some(node) = state.node.as_deref() else { return 0 };
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let fits = |t: &&PreferredSchedulingTerm| placement::term_matches(&t.preference, node);
    terms.into_iter().flatten().filter(fits).map(|t| i64::from(t.weight)).sum()
}

#[cfg(test)]
mod tests;
