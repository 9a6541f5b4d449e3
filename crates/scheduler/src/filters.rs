//! Whether a pod can go to a node at all. Reasons are upstream's words, which people search for.

use std::collections::{BTreeSet, HashSet};

use informer::Key;
use informer::pod::PodSpec;
use k8s_openapi::api::core::v1::{Node, NodeSelector, Taint, Toleration};
use kube::ResourceExt as _;

use crate::amounts::Amounts;
use crate::pod::PodInfo;
use crate::snapshot::NodeState;
use crate::topology::Topology;

/// What the pod's volumes demand.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    pub affinities: Vec<NodeSelector>,
    /// Volumes are already being made on this node.
    pub node: Option<String>,
    /// Labels of the pod's volumes that say where they are: key and values.
    pub zones: Vec<(String, Vec<String>)>,
    /// Claims that one pod at a time may use, wherever it is.
    pub exclusive: Vec<Key>,
    /// Another pod has one of them.
    pub in_use: bool,
    /// Those of drivers: the driver, and what the volume is to it.
    pub of_drivers: BTreeSet<(String, String)>,
    /// Nodes where a driver can't attach as many more.
    pub crowded: HashSet<String>,
    /// Claims whose volumes are to be made on the chosen node.
    pub to_provision: Vec<String>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: String,
    /// Whether fewer pods on the node could help.
    pub resolvable: bool,
}

fn final_(reason: impl Into<String>) -> Option<Obstacle> {
    Some(Obstacle { reason: reason.into(), resolvable: false })
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether a pod's node selector and affinity let it be on a node.
pub fn wants_node(pod: &PodInfo, node: &Node) -> bool {
    pod.pod.spec.as_ref().is_none_or(|s| placement::wanted_by(s.node_selector.as_ref(), s.affinity.as_ref(), node))
}

/// Whether a pod has a node selector or affinity at all.
pub fn chooses_nodes(pod: &PodInfo) -> bool {
    let affinity = |spec: &PodSpec| spec.affinity.as_ref().is_some_and(|a| a.node_affinity.is_some());
    pod.pod.spec.as_ref().is_some_and(|s| s.node_selector.is_some() || affinity(s))
}

fn untolerated<'a>(pod: &PodInfo, node: &'a Node) -> Option<&'a Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.into_iter().flatten().filter(hard).find(|t| !placement::tolerates(tolerations(pod), t))
}

pub fn tolerates_hard_taints(pod: &PodInfo, node: &Node) -> bool {
    untolerated(pod, node).is_none()
}

/// How many taints of a node would rather not have the pod.
pub fn soft_taints(pod: &PodInfo, node: &Node) -> i64 {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let soft = taints.filter(|t| t.effect == "PreferNoSchedule" && !placement::tolerates(tolerations(pod), t));
    soft.count() as i64
}

/// Why a pod can't go to a node; `None` if it can.
pub fn obstacle(pod: &PodInfo, state: &NodeState, volumes: &Volumes, topology: &Topology) -> Option<Obstacle> {
    let node = state.node.as_deref()?;
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        let cordon =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if !placement::tolerates(tolerations(pod), &cordon) {
            return final_("node(s) were unschedulable");
        }
    }
    if let Some(taint) = untolerated(pod, node) {
        let value = taint.value.as_deref().unwrap_or("");
        return final_(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !wants_node(pod, node) {
        return final_("node(s) didn't match Pod's node affinity/selector");
    }
    if volumes.affinities.iter().any(|s| !placement::matches(s, node))
        || volumes.node.as_ref().is_some_and(|n| *n != node.name_any())
    {
        return final_("node(s) didn't match PersistentVolume's node affinity");
    }
    let elsewhere = |(key, values): &(String, Vec<String>)| {
        // Nodes of no zone at all are as good as any.
        state.label(key).is_some_and(|own| !values.iter().any(|v| v == own))
    };
    if volumes.zones.iter().any(elsewhere) {
        return final_("node(s) had no available volume zone");
    }
    if volumes.crowded.contains(&state.name) {
        return final_("node(s) exceed max volume count");
    }
    let resolvable = |reason: String| Some(Obstacle { reason, resolvable: true });
    if volumes.in_use {
        let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        return resolvable(reason.into());
    }
    if let Some(reason) = lack(&pod.amounts, &state.used, &state.allocatable) {
        // What the whole node doesn't have, fewer pods don't bring.
        let hopeless = lack(&pod.amounts, &Amounts::default(), &state.allocatable).is_some();
        return if hopeless { final_(reason) } else { resolvable(reason) };
    }
    if !pod.ports.is_empty() && state.with_ports().any(|other| pod.collides(other)) {
        return resolvable("node(s) didn't have free ports for the requested pod ports".into());
    }
    let reason = topology.obstacle(pod, state)?;
    // Fewer pods don't bring the one that this one wants to be near, or a label.
    let hopeless = reason.ends_with("pod affinity rules") || reason.ends_with("(missing required label)");
    Some(Obstacle { reason: reason.into(), resolvable: !hopeless })
}

/// Whether a pod uses one of these claims.
pub fn uses(pod: &PodInfo, claims: &[Key]) -> bool {
    informer::claims(&pod.pod)
        .iter()
        .any(|c| claims.iter().any(|k| k.namespace == pod.kin.namespace && k.name == c.name))
}

/// What isn't there any more.
fn lack(wanted: &Amounts, used: &Amounts, all: &Amounts) -> Option<String> {
    if used.pods + 1 > all.pods {
        return Some("Too many pods".into());
    }
    if wanted.cpu_milli > 0 && used.cpu_milli + wanted.cpu_milli > all.cpu_milli {
        return Some("Insufficient cpu".into());
    }
    if wanted.memory > 0 && used.memory + wanted.memory > all.memory {
        return Some("Insufficient memory".into());
    }
    let amount = |of: &std::collections::BTreeMap<String, i64>, name: &str| of.get(name).copied().unwrap_or(0);
    let missing = wanted
        .others
        .iter()
        .find(|(name, wanted)| **wanted > 0 && amount(&used.others, name) + **wanted > amount(&all.others, name));
    missing.map(|(name, _)| format!("Insufficient {name}"))
}
