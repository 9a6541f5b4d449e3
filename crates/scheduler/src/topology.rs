//! Where pods are in relation to each other: affinity, anti-affinity and even spreading, by domains of nodes.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::filters::{chooses_nodes, tolerates_hard_taints, wants_node};
use crate::pod::{Kin, PodInfo, Spread};
use crate::snapshot::{NodeState, Snapshot};

type Domain = (String, String);

/// What is known of a pod's neighbourhood before nodes are looked at one by one.
#[derive(Debug, Default)]
pub struct Topology {
    /// For each required term, the domains that have a pod it is about.
    near: Vec<HashSet<String>>,
    /// No pod anywhere is what the pod wants to be near, but itself is: the first of a group.
    is_first: bool,
    /// Domains that the pod's own anti-affinity excludes.
    far: HashSet<Domain>,
    /// Domains from which pods that are there keep this one away.
    closed: HashSet<Domain>,
    /// What preferences, its own and those of others, say of domains.
    preference: HashMap<Domain, i64>,
    /// For each constraint, how many pods each domain has.
    spread: Vec<BTreeMap<String, i64>>,
}

impl Topology {
    pub fn of(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let mut topology = Topology { near: vec![HashSet::new(); pod.affinity.len()], ..Topology::default() };
        let namespaces = &snapshot.namespaces;
        let domain = |state: &NodeState, key: &str| state.label(key).map(|value| (key.to_string(), value.to_string()));
        if pod.has_affinity() {
            for (kin, counts) in snapshot.groups() {
                let places =
                    || counts.iter().filter_map(|(id, number)| Some((snapshot.node(*id)?, i64::from(*number))));
                for (i, term) in pod.affinity.iter().enumerate().filter(|(_, t)| t.is_about(kin, namespaces)) {
                    topology.near[i]
                        .extend(places().filter_map(|(s, _)| s.label(&term.topology_key).map(String::from)));
                }
                for term in pod.anti_affinity.iter().filter(|t| t.is_about(kin, namespaces)) {
                    topology.far.extend(places().filter_map(|(s, _)| domain(s, &term.topology_key)));
                }
                for term in pod.preferred.iter().filter(|t| t.is_about(kin, namespaces)) {
                    for (state, number) in places() {
                        if let Some(domain) = domain(state, &term.topology_key) {
                            *topology.preference.entry(domain).or_default() += term.weight * number;
                        }
                    }
                }
            }
        }
        // What those that are there say of the one that comes.
        for (state, other) in snapshot.affine() {
            for term in other.anti_affinity.iter().filter(|t| t.is_about(&pod.kin, namespaces)) {
                topology.closed.extend(domain(state, &term.topology_key));
            }
            for term in other.preferred.iter().chain(&other.affinity).filter(|t| t.is_about(&pod.kin, namespaces)) {
                if let Some(domain) = domain(state, &term.topology_key) {
                    *topology.preference.entry(domain).or_default() += term.weight;
                }
            }
        }
        topology.is_first = topology.near.iter().all(HashSet::is_empty)
            && pod.affinity.iter().all(|term| term.is_about(&pod.kin, namespaces));
        topology.spread = pod.spread.iter().map(|constraint| counts(pod, constraint, snapshot)).collect();
        topology
    }

    /// Why the neighbourhood doesn't let the pod go to a node.
    pub fn obstacle(&self, pod: &PodInfo, state: &NodeState) -> Option<&'static str> {
        for (term, domains) in pod.affinity.iter().zip(&self.near) {
            let fits = state.label(&term.topology_key).is_some_and(|value| self.is_first || domains.contains(value));
            if !fits {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        let inside = |domains: &HashSet<Domain>| {
            !domains.is_empty() && domains.iter().any(|(key, value)| state.label(key) == Some(value.as_str()))
        };
        if inside(&self.far) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        if inside(&self.closed) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        for (constraint, counts) in pod.spread.iter().zip(&self.spread).filter(|(c, _)| c.required) {
            let Some(value) = state.label(&constraint.topology_key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let enough = counts.len() as i64 >= constraint.min_domains;
            let least = if enough { counts.values().min().copied().unwrap_or(0) } else { 0 };
            let own = i64::from(constraint.selector.matches_map(Some(&pod.kin.labels)));
            if counts.get(value).copied().unwrap_or(0) + own - least > constraint.max_skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    /// How well a node's neighbours suit the pod; any number.
    pub fn preference(&self, state: &NodeState) -> i64 {
        if self.preference.is_empty() {
            return 0;
        }
        let here = self.preference.iter().filter(|((key, value), _)| state.label(key) == Some(value.as_str()));
        here.map(|(_, weight)| weight).sum()
    }

    /// How crowded a node's domains are; the less the better. `None` if the pod has no soft constraint.
    pub fn crowd(&self, pod: &PodInfo, state: &NodeState) -> Option<i64> {
        if pod.spread.is_empty() {
            return None;
        }
        let soft: Vec<_> = pod.spread.iter().zip(&self.spread).filter(|(c, _)| !c.required).collect();
        if soft.is_empty() {
            return None;
        }
        let count = |(constraint, counts): &(&Spread, &BTreeMap<String, i64>)| {
            // Without the label, a node is in no domain, and worse than any that is.
            let most = counts.values().max().copied().unwrap_or(0) + 1;
            state.label(&constraint.topology_key).map_or(most, |value| counts.get(value).copied().unwrap_or(0))
        };
        Some(soft.iter().map(count).sum())
    }
}

/// How many pods that a constraint is about are in each domain of nodes that the pod could be on.
fn counts(pod: &PodInfo, constraint: &Spread, snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let key = &constraint.topology_key;
    let chooses = constraint.honor_taints || (constraint.honor_affinity && chooses_nodes(pod));
    let eligible = |state: &NodeState| {
        !chooses
            || state.node.as_deref().is_some_and(|node| {
                (!constraint.honor_affinity || wants_node(pod, node))
                    && (!constraint.honor_taints || tolerates_hard_taints(pod, node))
            })
    };
    let mut counts: BTreeMap<String, i64> = if chooses {
        let nodes = snapshot.nodes().filter(|s| eligible(s));
        nodes.filter_map(|s| Some((s.label(key)?.to_string(), 0))).collect()
    } else {
        snapshot.domains(key).map(|value| (value.clone(), 0)).collect()
    };
    let about = |kin: &Kin| {
        kin.namespace == pod.kin.namespace && !kin.is_ending && constraint.selector.matches_map(Some(&kin.labels))
    };
    for (_, places) in snapshot.groups().filter(|(kin, _)| about(kin)) {
        for (id, number) in places {
            let state = snapshot.node(*id).filter(|s| eligible(s));
            if let Some(total) = state.and_then(|s| counts.get_mut(s.label(key)?)) {
                *total += i64::from(*number);
            }
        }
    }
    counts
}
