//! Which pods have to go so that a more important one can come. Pure.
//!
//! On each node that could be made to fit, all less important pods are taken away in thought, and as many as possible
//! put back: those whose budgets would be broken first, then the more important ones. Of the nodes, the one where the
//! least is lost is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use informer::Key;

use crate::filters::{Volumes, obstacle};
use crate::plan::{Refusal, counted};
use crate::pod::PodInfo;
use crate::snapshot::{NodeState, Snapshot};
use crate::topology::Topology;

/// Pods that may still be disrupted, by budget; and which budgets a pod is under.
pub trait Budgets {
    /// The budgets of a pod, each with how many disruptions it allows now.
    fn of(&self, pod: &PodInfo) -> Vec<(String, i32)>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    pub node: String,
    pub victims: Vec<Key>,
}

/// What would be lost on a node, from what matters most to what matters least.
type Loss = (usize, i32, i64, usize);

/// The node where room is to be made and the pods that have to go, or why there is none.
pub fn find(
    pod: &PodInfo,
    snapshot: &Snapshot,
    volumes: &Volumes,
    refusal: &Refusal,
    budgets: &impl Budgets,
) -> Result<Preemption, String> {
    let total = refusal.obstacles.len();
    let never = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never");
    if never {
        let reasons = refusal.obstacles.values().map(|_| "Preemption is not helpful for scheduling");
        return Err(counted(total, reasons));
    }
    let topology = Topology::of(pod, snapshot);
    let mut best: Option<(Loss, Preemption)> = None;
    let mut reasons = Vec::new();
    for state in snapshot.nodes() {
        let Some(found) = refusal.obstacles.get(&state.name) else { continue };
        if !found.resolvable {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        match on_node(pod, state, snapshot, volumes, &topology, budgets) {
            Some((loss, victims)) => {
                if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                    best = Some((loss, Preemption { node: state.name.clone(), victims }));
                }
            }
            None => reasons.push("No preemption victims found for incoming pod"),
        }
    }
    best.map(|(_, preemption)| preemption).ok_or_else(|| counted(total, reasons.into_iter()))
}

fn on_node(
    pod: &PodInfo,
    state: &NodeState,
    snapshot: &Snapshot,
    volumes: &Volumes,
    topology: &Topology,
    budgets: &impl Budgets,
) -> Option<(Loss, Vec<Key>)> {
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
    // Neighbours on this node count differently once they are gone.
    let fits = |rest: &NodeState| {
        let plain = pod.affinity.is_empty() && pod.anti_affinity.is_empty() && pod.spread.is_empty();
        if plain && !state.pods.values().any(|p| !p.anti_affinity.is_empty()) {
            return obstacle(pod, rest, volumes, topology).is_none();
        }
        let without = snapshot.without(state.pods.keys().filter(|key| !rest.pods.contains_key(key)));
        obstacle(pod, rest, volumes, &Topology::of(pod, &without)).is_none()
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
    // First back: those whose budgets would be broken, then the more important, then those that run longest.
    ranked.sort_by_key(|(broken, key, other)| {
        let started = other.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (!*broken, std::cmp::Reverse(other.priority), started, key.clone())
    });
    let mut victims = Vec::new();
    let mut loss: Loss = (0, i32::MIN, 0, 0);
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
