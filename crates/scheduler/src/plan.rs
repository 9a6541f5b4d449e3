//! Which node a pod goes to: filters, then scores. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Quantity;
use informer::Key;
use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod, Taint};
use kube::ResourceExt as _;

/// Amounts of resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_milli: i64,
    pub memory: i64,
    pub pods: i64,
}

impl Amounts {
    pub fn plus(&self, other: &Amounts) -> Amounts {
        Amounts {
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory: self.memory + other.memory,
            pods: self.pods + other.pods,
        }
    }
}

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    pub node: Option<Arc<Node>>,
    pub used: Amounts,
    pub pods: BTreeMap<Key, Arc<Pod>>,
}

/// What the pod's volumes demand.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    pub affinities: Vec<NodeSelector>,
    /// Volumes are already being made on this node.
    pub node: Option<String>,
    /// Claims whose volumes are to be made on the chosen node.
    pub to_provision: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Node(String),
    /// Why not, in upstream's words.
    Nowhere(String),
}

fn amount(
    map: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
) -> Quantity {
    map.and_then(|m| m.get(name)).and_then(|q| q.0.parse().ok()).unwrap_or_default()
}

/// What a pod asks for: its containers and sidecars together, or its largest init container if that is more.
pub fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::default() };
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        Amounts { cpu_milli: amount(requests, "cpu").milli(), memory: amount(requests, "memory").value(), pods: 0 }
    };
    let mut total = spec.containers.iter().map(of).fold(Amounts::default(), |a, b| a.plus(&b));
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(&of(container));
        } else {
            let now = sidecars.plus(&of(container));
            peak =
                Amounts { cpu_milli: peak.cpu_milli.max(now.cpu_milli), memory: peak.memory.max(now.memory), pods: 0 };
        }
    }
    total = total.plus(&sidecars);
    let overhead = spec.overhead.as_ref();
    Amounts {
        cpu_milli: total.cpu_milli.max(peak.cpu_milli) + amount(overhead, "cpu").milli(),
        memory: total.memory.max(peak.memory) + amount(overhead, "memory").value(),
        pods: 1,
    }
}

fn host_ports(pod: &Pod) -> Vec<(i32, String)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| Some((p.host_port.filter(|n| *n > 0)?, p.protocol.clone().unwrap_or_else(|| "TCP".into()))))
        .collect()
}

/// Why a pod can't go to a node; `None` if it can.
fn obstacle(pod: &Pod, wanted: &Amounts, state: &NodeState, volumes: &Volumes) -> Option<String> {
    let node = state.node.as_deref()?;
    let (spec, node_spec) = (pod.spec.as_ref()?, node.spec.clone().unwrap_or_default());
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if node_spec.unschedulable == Some(true) {
        let cordon =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if !placement::tolerates(tolerations, &cordon) {
            return Some("node(s) were unschedulable".into());
        }
    }
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    if let Some(taint) = node_spec.taints.iter().flatten().filter(hard).find(|t| !placement::tolerates(tolerations, t))
    {
        return Some(format!(
            "node(s) had untolerated taint {{{}: {}}}",
            taint.key,
            taint.value.as_deref().unwrap_or("")
        ));
    }
    if !placement::wanted_by(spec, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if volumes.affinities.iter().any(|s| !placement::matches(s, node))
        || volumes.node.as_ref().is_some_and(|n| *n != node.name_any())
    {
        return Some("node(s) didn't match PersistentVolume's node affinity".into());
    }
    let ports = host_ports(pod);
    if !ports.is_empty() && state.pods.values().flat_map(|p| host_ports(p)).any(|p| ports.contains(&p)) {
        return Some("node(s) didn't have free ports for the requested pod ports".into());
    }
    let offered = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    if state.used.pods + 1 > amount(offered, "pods").value() {
        return Some("Too many pods".into());
    }
    if wanted.cpu_milli > 0 && state.used.cpu_milli + wanted.cpu_milli > amount(offered, "cpu").milli() {
        return Some("Insufficient cpu".into());
    }
    if wanted.memory > 0 && state.used.memory + wanted.memory > amount(offered, "memory").value() {
        return Some("Insufficient memory".into());
    }
    None
}

/// How well a pod would be on a node: the more the better.
fn score(pod: &Pod, wanted: &Amounts, state: &NodeState) -> i64 {
    let Some(node) = state.node.as_deref() else { return 0 };
    let offered = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let free = |used: i64, all: i64| if all <= 0 { 0 } else { ((all - used).max(0) * 100) / all };
    // Pods that ask for nothing still weigh something.
    let cpu = state.used.cpu_milli + wanted.cpu_milli.max(100);
    let memory = state.used.memory + wanted.memory.max(200 << 20);
    let least = (free(cpu, amount(offered, "cpu").milli()) + free(memory, amount(offered, "memory").value())) / 2;
    // Siblings (same labels in the same namespace) are spread.
    let siblings = state
        .pods
        .iter()
        .filter(|(key, other)| Some(key.namespace.as_str()) == pod.namespace().as_deref() && is_sibling(pod, other));
    let preferred: i64 = {
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let fits =
            |t: &&k8s_openapi::api::core::v1::PreferredSchedulingTerm| placement::term_matches(&t.preference, node);
        terms.into_iter().flatten().filter(fits).map(|t| i64::from(t.weight)).sum()
    };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let soft = taints
        .into_iter()
        .flatten()
        .filter(|t| t.effect == "PreferNoSchedule" && !placement::tolerates(tolerations, t))
        .count();
    least - 100 * siblings.count() as i64 + 2 * preferred - 300 * soft as i64
}

/// Pods of one controller, whatever revision they are of.
fn is_sibling(a: &Pod, b: &Pod) -> bool {
    let owner = |p: &Pod| p.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone());
    owner(a).is_some() && owner(a) == owner(b)
}

/// The best node for a pod.
pub fn place<'a>(pod: &Pod, nodes: impl Iterator<Item = &'a NodeState> + Clone, volumes: &Volumes) -> Outcome {
    let wanted = requests(pod);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i64, String)> = None;
    let mut total = 0;
    for state in nodes {
        total += 1;
        if let Some(reason) = obstacle(pod, &wanted, state, volumes) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let score = score(pod, &wanted, state);
        let name = state.node.as_ref().map(|n| n.name_any()).unwrap_or_default();
        if best.as_ref().is_none_or(|(s, _)| score > *s) {
            best = Some((score, name));
        }
    }
    if let Some((_, name)) = best {
        return Outcome::Node(name);
    }
    if total == 0 {
        return Outcome::Nowhere("no nodes available to schedule pods".into());
    }
    let mut list: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    list.sort();
    Outcome::Nowhere(format!("0/{total} nodes are available: {}.", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, cpu: &str, extra: Value) -> NodeState {
        let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}}});
        if !extra.is_null() {
            node["spec"] = extra;
        }
        NodeState { node: Some(Arc::new(serde_json::from_value(node).unwrap())), ..NodeState::default() }
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn check(spec: Value, nodes: &[NodeState], want: &str) {
        let got = match place(&pod(spec), nodes.iter(), &Volumes::default()) {
            Outcome::Node(name) => name,
            Outcome::Nowhere(reason) => reason,
        };
        assert_eq!(got, want);
    }

    fn plain(cpu: &str) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn pods_go_where_they_fit_best() {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        check(plain("1"), &[node("a", "1", Value::Null), node("b", "4", Value::Null)], "b");
        check(plain("1"), &[node("a", "4", tainted.clone()), node("b", "2", Value::Null)], "b");
        let mut tolerant = plain("1");
        tolerant["tolerations"] = json!([{"operator": "Exists"}]);
        check(tolerant, &[node("a", "4", tainted)], "a");
        let mut picky = plain("1");
        picky["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
        check(picky, &[node("a", "1", Value::Null), node("b", "4", Value::Null)], "a");
    }

    #[test]
    fn refusals_are_counted_in_upstreams_words() {
        let cordoned = json!({"unschedulable": true});
        check(
            plain("3"),
            &[node("a", "1", Value::Null), node("b", "2", Value::Null), node("c", "9", cordoned)],
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.",
        );
        check(plain("1"), &[], "no nodes available to schedule pods");
    }

    #[test]
    fn requests_count_the_peak_of_init_containers_and_the_sum_of_sidecars() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = c("1");
        sidecar["restartPolicy"] = "Always".into();
        let of = |spec: Value| requests(&pod(spec)).cpu_milli;
        assert_eq!(of(json!({"containers": [c("1"), c("2")], "initContainers": [c("5")]})), 5000);
        assert_eq!(of(json!({"containers": [c("1"), c("2")], "initContainers": [sidecar, c("1")]})), 4000);
    }
}
