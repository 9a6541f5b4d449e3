//! Filter plugins: whether a pod fits a node. The reasons are upstream's texts, which users search for.

use std::collections::{BTreeSet, HashSet};

use apimachinery::LabelSelector;
use informer::Key;
use k8s_openapi::api::core::v1::{Node, NodeSelector, Taint, TopologySelectorTerm};
use kube::ResourceExt as _;

use crate::node_predicates::{find_untolerated_taint, matches_node_affinity, tolerations};
use crate::pod::PodInfo;
use crate::resources::Resources;
use crate::snapshot::NodeState;
use crate::topology::Topology;

/// Requirements of the pod's volumes.
#[derive(Debug, Clone, Default)]
pub struct PodVolumes {
    /// Node affinities of PersistentVolumes.
    pub affinities: Vec<NodeSelector>,
    /// Volumes are already being provisioned on this node.
    pub node: Option<String>,
    /// Topology labels of the pod's volumes: key and values.
    pub zones: Vec<(String, Vec<String>)>,
    /// Claims with the access mode ReadWriteOncePod.
    pub exclusive: Vec<Key>,
    /// Another pod uses one of them.
    pub in_use: bool,
    /// Volumes of CSI drivers: driver and handle.
    pub of_drivers: BTreeSet<(String, String)>,
    /// Nodes where a driver can't attach that many volumes more.
    pub at_attach_limit: HashSet<String>,
    /// Claims whose volumes are found or provisioned on the chosen node (`WaitForFirstConsumer`).
    pub waiting: Vec<WaitingClaim>,
}

/// A claim that gets its volume where its pod runs.
#[derive(Debug, Clone, Default)]
pub struct WaitingClaim {
    /// Its name.
    pub name: String,
    /// The volumes that would do, the smallest first: their names, and the nodes that they may be used on.
    pub candidates: Vec<(String, Option<NodeSelector>)>,
    /// Whether its class has a provisioner, which makes one where none is found.
    pub has_provisioner: bool,
    /// Where that makes volumes (`allowedTopologies`); anywhere if there are none.
    pub topologies: Vec<TopologySelectorTerm>,
    /// Where it has room for this one, as labels of nodes, if its driver tells (KEP-1472).
    pub roomy: Option<Vec<LabelSelector>>,
}

/// Why a node has no volume for a claim, in upstream's words.
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";

impl PodVolumes {
    /// Why a waiting claim can't have a volume on the node, if one can't; none gets the same as another (upstream's `FindPodVolumes`).
    fn missing_on(&self, node: &Node) -> Option<&'static str> {
        let mut taken: Vec<&str> = Vec::new();
        self.waiting.iter().find_map(|claim| {
            let is_here =
                |at: &Option<NodeSelector>| at.as_ref().is_none_or(|s| placement::node_selector_matches(s, node));
            let mut free = claim.candidates.iter().filter(|(name, at)| is_here(at) && !taken.contains(&name.as_str()));
            if let Some((name, _)) = free.next() {
                taken.push(name);
                return None;
            }
            let labels = node.labels();
            let fits = |term: &TopologySelectorTerm| {
                let mut wanted = term.match_label_expressions.iter().flatten();
                wanted.all(|e| labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
            };
            if !claim.has_provisioner || !(claim.topologies.is_empty() || claim.topologies.iter().any(fits)) {
                return Some(NO_VOLUME);
            }
            let is_roomy = claim.roomy.as_ref().is_none_or(|places| places.iter().any(|s| s.matches_map(Some(labels))));
            (!is_roomy).then_some(NO_ROOM)
        })
    }
}

/// Why a pod doesn't fit a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Upstream's texts. Of resources each that is missing has one.
    pub reasons: Vec<String>,
    /// Whether preemption could help (else upstream's `UnschedulableAndUnresolvable`).
    pub resolvable: bool,
}

fn unresolvable(reason: impl Into<String>) -> Option<Rejection> {
    Some(Rejection { reasons: vec![reason.into()], resolvable: false })
}

/// Runs all filters; `None` if the pod fits the node.
pub fn rejection(pod: &PodInfo, state: &NodeState, volumes: &PodVolumes, topology: &Topology) -> Option<Rejection> {
    let node = state.node.as_deref()?;
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        let cordon =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if !placement::tolerates(tolerations(pod), &cordon) {
            return unresolvable("node(s) were unschedulable");
        }
    }
    if let Some(taint) = find_untolerated_taint(pod, node) {
        let value = taint.value.as_deref().unwrap_or("");
        return unresolvable(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !matches_node_affinity(pod, node) {
        return unresolvable("node(s) didn't match Pod's node affinity/selector");
    }
    if volumes.affinities.iter().any(|s| !placement::node_selector_matches(s, node))
        || volumes.node.as_ref().is_some_and(|n| *n != node.name_any())
    {
        return unresolvable("node(s) didn't match PersistentVolume's node affinity");
    }
    let elsewhere = |(key, values): &(String, Vec<String>)| {
        // A node without zone labels matches any zone.
        state.label(key).is_some_and(|own| !values.iter().any(|v| v == own))
    };
    if volumes.zones.iter().any(elsewhere) {
        return unresolvable("node(s) had no available volume zone");
    }
    if let Some(reason) = volumes.missing_on(node) {
        return unresolvable(reason);
    }
    if volumes.at_attach_limit.contains(&state.name) {
        return unresolvable("node(s) exceed max volume count");
    }
    let resolvable = |reason: String| Some(Rejection { reasons: vec![reason], resolvable: true });
    if volumes.in_use {
        let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        return resolvable(reason.into());
    }
    let reasons = insufficient_resources(&pod.resources, &state.used, &state.allocatable);
    if !reasons.is_empty() {
        // Preemption doesn't help if the node's allocatable is too small.
        let hopeless = insufficient_resources(&pod.resources, &Resources::default(), &state.allocatable);
        return Some(Rejection { reasons, resolvable: hopeless.is_empty() });
    }
    if !pod.ports.is_empty() && state.with_ports().any(|other| pod.host_ports_conflict(other)) {
        return resolvable("node(s) didn't have free ports for the requested pod ports".into());
    }
    let reason = topology.rejection(pod, state)?;
    // Preemption adds neither a pod that affinity requires, nor a label.
    let hopeless = reason.ends_with("pod affinity rules") || reason.ends_with("(missing required label)");
    Some(Rejection { reasons: vec![reason.into()], resolvable: !hopeless })
}

/// Whether a pod uses one of these claims.
pub fn uses(pod: &PodInfo, claims: &[Key]) -> bool {
    informer::claims(&pod.pod)
        .iter()
        .any(|c| claims.iter().any(|k| k.namespace == pod.group_key.namespace && k.name == c.name))
}

/// The resources that are insufficient, each in upstream's words.
fn insufficient_resources(wanted: &Resources, used: &Resources, all: &Resources) -> Vec<String> {
    let mut missing = Vec::new();
    if used.pods + 1 > all.pods {
        missing.push("Too many pods".to_string());
    }
    if wanted.cpu_milli > 0 && used.cpu_milli + wanted.cpu_milli > all.cpu_milli {
        missing.push("Insufficient cpu".into());
    }
    if wanted.memory > 0 && used.memory + wanted.memory > all.memory {
        missing.push("Insufficient memory".into());
    }
    let amount = |of: &std::collections::BTreeMap<String, i64>, name: &str| of.get(name).copied().unwrap_or(0);
    let others = wanted
        .others
        .iter()
        .filter(|(name, wanted)| **wanted > 0 && amount(&used.others, name) + **wanted > amount(&all.others, name));
    missing.extend(others.map(|(name, _)| format!("Insufficient {name}")));
    missing
}
