//! InterPodAffinity and PodTopologySpread: placement relative to other pods, by topology domains.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::node_predicates::{has_node_affinity, matches_node_affinity, tolerates_hard_taints};
use crate::pod::{PodGroupKey, PodInfo, SpreadConstraint};
use crate::snapshot::{NodeState, Snapshot};

type Domain = (String, String);

/// The state that is computed once for a pod, before the nodes are filtered (upstream's PreFilter).
#[derive(Debug, Default)]
pub struct Topology {
    /// For each required affinity term, the domains with a matching pod.
    near: Vec<HashSet<String>>,
    /// No existing pod matches the affinity terms, but the pod itself does: it is the first of its group.
    is_first: bool,
    /// Domains that the pod's anti-affinity excludes.
    far: HashSet<Domain>,
    /// Domains that the anti-affinity of existing pods excludes.
    closed: HashSet<Domain>,
    /// Weights of preferred terms, of this pod and of existing ones, by domain.
    inter_pod_affinity_score: HashMap<Domain, i64>,
    /// For each spread constraint, the number of matching pods by domain.
    spread: Vec<BTreeMap<String, i64>>,
}

impl Topology {
    /// Computes the state of a pod.
    pub fn of(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let mut topology = Topology { near: vec![HashSet::new(); pod.affinity.len()], ..Topology::default() };
        let namespaces = &snapshot.namespaces;
        let domain = |state: &NodeState, key: &str| state.label(key).map(|value| (key.to_string(), value.to_string()));
        if pod.has_affinity() {
            for (group_key, counts) in snapshot.groups() {
                let places =
                    || counts.iter().filter_map(|(id, number)| Some((snapshot.node(*id)?, i64::from(*number))));
                // Only pods that all terms select count, for each of the terms.
                if pod.affinity.iter().all(|term| term.matches(group_key, namespaces)) {
                    for (term, near) in pod.affinity.iter().zip(&mut topology.near) {
                        near.extend(places().filter_map(|(s, _)| s.label(&term.topology_key).map(String::from)));
                    }
                }
                for term in pod.anti_affinity.iter().filter(|t| t.matches(group_key, namespaces)) {
                    topology.far.extend(places().filter_map(|(s, _)| domain(s, &term.topology_key)));
                }
                for term in pod.preferred.iter().filter(|t| t.matches(group_key, namespaces)) {
                    for (state, number) in places() {
                        if let Some(domain) = domain(state, &term.topology_key) {
                            *topology.inter_pod_affinity_score.entry(domain).or_default() += term.weight * number;
                        }
                    }
                }
            }
        }
        // Terms of existing pods about this one.
        for (state, other) in snapshot.pods_with_affinity() {
            for term in other.anti_affinity.iter().filter(|t| t.matches(&pod.group_key, namespaces)) {
                topology.closed.extend(domain(state, &term.topology_key));
            }
            for term in other.preferred.iter().chain(&other.affinity).filter(|t| t.matches(&pod.group_key, namespaces))
            {
                if let Some(domain) = domain(state, &term.topology_key) {
                    *topology.inter_pod_affinity_score.entry(domain).or_default() += term.weight;
                }
            }
        }
        topology.is_first = topology.near.iter().all(HashSet::is_empty)
            && pod.affinity.iter().all(|term| term.matches(&pod.group_key, namespaces));
        topology.spread = pod.spread.iter().map(|constraint| counts(pod, constraint, snapshot)).collect();
        topology
    }

    /// Filter: why the pod doesn't fit the node.
    pub fn rejection(&self, pod: &PodInfo, state: &NodeState) -> Option<&'static str> {
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
            let own = i64::from(constraint.selects(&pod.group_key.labels));
            if counts.get(value).copied().unwrap_or(0) + own - least > constraint.max_skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    /// Score of InterPodAffinity, not normalized.
    pub fn inter_pod_affinity_score(&self, state: &NodeState) -> i64 {
        if self.inter_pod_affinity_score.is_empty() {
            return 0;
        }
        let here =
            self.inter_pod_affinity_score.iter().filter(|((key, value), _)| state.label(key) == Some(value.as_str()));
        here.map(|(_, weight)| weight).sum()
    }

    /// Score of PodTopologySpread: lower is better. `None` without a `ScheduleAnyway` constraint.
    pub fn spread_score(&self, pod: &PodInfo, state: &NodeState) -> Option<i64> {
        if pod.spread.is_empty() {
            return None;
        }
        let soft: Vec<_> = pod.spread.iter().zip(&self.spread).filter(|(c, _)| !c.required).collect();
        if soft.is_empty() {
            return None;
        }
        // A node without one of the labels is in no domain, and scores worse than any other.
        let is_outside = soft.iter().any(|(constraint, _)| state.label(&constraint.topology_key).is_none());
        let count = |(constraint, counts): &(&SpreadConstraint, &BTreeMap<String, i64>)| {
            let most = counts.values().max().copied().unwrap_or(0) + 1;
            let value = state.label(&constraint.topology_key).filter(|_| !is_outside);
            value.map_or(most, |value| counts.get(value).copied().unwrap_or(0))
        };
        Some(soft.iter().map(count).sum())
    }
}

/// The number of matching pods by domain, over the nodes that count for the constraint: by its policies (`nodeAffinityPolicy`, `nodeTaintsPolicy`),
/// and those with the labels of all constraints of its kind.
fn counts(pod: &PodInfo, constraint: &SpreadConstraint, snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let key = &constraint.topology_key;
    let same_kind = pod.spread.iter().filter(|other| other.required == constraint.required);
    let keys: Vec<&str> = same_kind.map(|other| other.topology_key.as_str()).collect();
    let chooses = constraint.honor_taints || (constraint.honor_affinity && has_node_affinity(pod)) || keys.len() > 1;
    let eligible = |state: &NodeState| {
        !chooses
            || state.node.as_deref().is_some_and(|node| {
                keys.iter().all(|key| state.label(key).is_some())
                    && (!constraint.honor_affinity || matches_node_affinity(pod, node))
                    && (!constraint.honor_taints || tolerates_hard_taints(pod, node))
            })
    };
    let mut counts: BTreeMap<String, i64> = if chooses {
        let nodes = snapshot.nodes().filter(|s| eligible(s));
        nodes.filter_map(|s| Some((s.label(key)?.to_string(), 0))).collect()
    } else {
        snapshot.domains(key).map(|value| (value.clone(), 0)).collect()
    };
    let about = |group_key: &PodGroupKey| {
        group_key.namespace == pod.group_key.namespace && !group_key.is_ending && constraint.selects(&group_key.labels)
    };
    for (_, places) in snapshot.groups().filter(|(group_key, _)| about(group_key)) {
        for (id, number) in places {
            let state = snapshot.node(*id).filter(|s| eligible(s));
            if let Some(total) = state.and_then(|s| counts.get_mut(s.label(key)?)) {
                *total += i64::from(*number);
            }
        }
    }
    counts
}
