//! Whether this node takes a pod in: what upstream's kubelet asks before it does anything for a pod (`pkg/kubelet/lifecycle`). The scheduler
//! asks the same, but pods also come without it (`spec.nodeName`), and it may know less than the node. A pod that is rejected has failed.

mod handler;
mod preemption;

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, Taint, Toleration};
use kube::ResourceExt as _;
use parking_lot::Mutex;
use placement::HostPort;
use tokio::sync::watch;

use crate::config::AllowedSysctls;
use crate::spec::resources::is_extended;

pub use handler::PodAdmission;
pub use preemption::MESSAGE as PREEMPTED;

/// Pods of this priority or above are critical (`system-node-critical`, `system-cluster-critical`): never evicted, and ended last.
pub const CRITICAL: i32 = 2_000_000_000;

/// The pressures that a node can be under, by its conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    /// `MemoryPressure`
    pub memory: bool,
    /// `DiskPressure`
    pub disk: bool,
    /// `PIDPressure`
    pub pids: bool,
}

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// What a pod's status says of why it isn't taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason`
    pub reason: String,
    /// `status.message`
    pub message: String,
}

impl Rejection {
    /// One with these words.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Rejection { reason: reason.into(), message: message.into() }
    }
}

/// What a pod has of the node, from its admission to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct PodResources {
    requests: Amounts,
    ports: Vec<HostPort>,
    priority: i32,
    is_static: bool,
    is_critical: bool,
    qos: &'static str,
}

impl PodResources {
    /// What a pod asks for.
    pub fn of(pod: &Pod, is_static: bool) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
        let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
        let value = serde_json::to_value(pod).unwrap_or_default();
        let priority = spec.priority.unwrap_or(0);
        PodResources {
            requests: api::quota::pod_amounts(&value, "requests"),
            ports: ports.filter_map(HostPort::of).collect(),
            priority,
            is_static,
            is_critical: priority >= CRITICAL || is_static,
            qos: api::qos_class(&value["spec"]),
        }
    }

    fn request(&self, resource: &str) -> Quantity {
        if resource == "pods" {
            return Quantity::from_int(1);
        }
        self.requests.get(resource).copied().unwrap_or_default()
    }
}

/// What a pod wants, what the others have, and what there is.
#[derive(Debug, Clone, PartialEq)]
pub struct InsufficientResource {
    resource: String,
    requested: Quantity,
    used: Quantity,
    capacity: Quantity,
}

impl InsufficientResource {
    fn missing(&self) -> Quantity {
        self.requested - (self.capacity - self.used)
    }

    fn rejection(&self) -> Rejection {
        let unit = |amount: Quantity| if self.resource == "cpu" { amount.milli() } else { amount.value() };
        let (requested, used, capacity) = (unit(self.requested), unit(self.used), unit(self.capacity));
        let message = format!(
            "Node didn't have enough resource: {}, requested: {requested}, used: {used}, capacity: {capacity}",
            self.resource
        );
        Rejection::new(format!("OutOf{}", self.resource), message)
    }
}

/// Why a pod can't be on the node beside the others.
#[derive(Debug, Clone, PartialEq)]
pub enum PredicateFailure {
    /// The node lacks a resource.
    InsufficientResource(InsufficientResource),
    /// The name of upstream's predicate, and what it says.
    Predicate(&'static str, &'static str),
}

const AFFINITY: PredicateFailure =
    PredicateFailure::Predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");

const TAINTED: PredicateFailure =
    PredicateFailure::Predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");

impl PredicateFailure {
    /// Whether it may be so only as the node isn't known as it is now: labels and taints come and go.
    pub fn may_be_outdated(&self) -> bool {
        [AFFINITY, TAINTED].contains(self)
    }

    /// What the pod's status says.
    pub fn rejection(&self) -> Rejection {
        match self {
            PredicateFailure::InsufficientResource(shortage) => shortage.rejection(),
            PredicateFailure::Predicate(name, why) => Rejection::new(*name, format!("Predicate {name} failed: {why}")),
        }
    }
}

/// What a pod lacks beside the others, in upstream's order.
fn shortages<'a>(
    own: &PodResources,
    others: impl Iterator<Item = &'a PodResources> + Clone,
    allocatable: &Amounts,
) -> Vec<InsufficientResource> {
    let first = ["pods", "cpu", "memory", "ephemeral-storage"];
    let rest = own.requests.keys().map(String::as_str).filter(|name| !first.contains(name));
    let lacks = |resource: &str| {
        let capacity = match allocatable.get(resource) {
            // What no node offers may be of the whole cluster, and isn't asked of the node.
            None if is_extended(resource) => return None,
            capacity => capacity.copied().unwrap_or_default(),
        };
        let requested = own.request(resource);
        let used = others.clone().fold(Quantity::ZERO, |sum, other| sum + other.request(resource));
        let lacks = requested > Quantity::ZERO && used + requested > capacity;
        lacks.then(|| InsufficientResource { resource: resource.into(), requested, used, capacity })
    };
    first.into_iter().chain(rest).filter_map(lacks).collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// Why the node can't have a pod beside the others; the first reason is the one in its status. Before the API says how the node is labelled
/// and tainted, nothing is refused for that.
fn predicate_failures<'a>(
    pod: &Pod,
    own: &PodResources,
    others: impl Iterator<Item = &'a PodResources> + Clone,
    allocatable: &Amounts,
    node: Option<&Node>,
) -> Vec<PredicateFailure> {
    let mut found: Vec<PredicateFailure> =
        shortages(own, others.clone(), allocatable).into_iter().map(PredicateFailure::InsufficientResource).collect();
    let wants = |node: &Node| {
        let spec = pod.spec.as_ref();
        spec.is_none_or(|s| placement::node_affinity_matches(s.node_selector.as_ref(), s.affinity.as_ref(), node))
    };
    if node.is_some_and(|node| !wants(node)) {
        found.push(AFFINITY);
    }
    if others.into_iter().any(|other| placement::host_ports_conflict(&own.ports, &other.ports)) {
        found.push(PredicateFailure::Predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    let taints = node.and_then(|node| node.spec.as_ref()).and_then(|spec| spec.taints.as_ref());
    let expels = |taint: &Taint| taint.effect == "NoExecute" && !placement::tolerates(tolerations(pod), taint);
    if !own.is_static && taints.into_iter().flatten().any(expels) {
        found.push(TAINTED);
    }
    found
}

/// Under pressure only critical pods are admitted, and those that request what they use (upstream's eviction manager).
pub fn under_pressure(pod: &Pod, own: &PodResources, conditions: &[&str]) -> Option<Rejection> {
    if conditions.is_empty() || own.is_critical {
        return None;
    }
    let taint =
        Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let comes = own.qos != "BestEffort" || placement::tolerates(tolerations(pod), &taint);
    if *conditions == ["MemoryPressure"] && comes {
        return None;
    }
    Some(Rejection::new("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// Why this node can't run a pod as it wants to be run, whatever else is here.
pub fn unsupported(pod: &Pod) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    if pod.labels().get("kubernetes.io/os").is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Some(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    let of_pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    if own.chain(of_pod).any(|profile| profile.type_ != "Unconfined") && !runtime::app_armor::is_enabled() {
        return Some(Rejection::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    }
    None
}

/// Why a pod may not set the kernel parameters that it wants to set, in upstream's words.
pub fn forbidden_sysctl(pod: &Pod, allowed: &AllowedSysctls) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    let (network, ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
    let mut names = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()).map(|sysctl| &sysctl.name);
    let why = names.find_map(|name| allowed.refusal(name, network, ipc))?;
    Some(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")))
}

/// The pods that this node took in and that haven't ended yet, by uid.
#[derive(Default)]
pub struct Admitted {
    shares: Mutex<BTreeMap<String, PodResources>>,
    released: watch::Sender<()>,
    /// Whether it is known which of the pods that were here before still are.
    settled: watch::Sender<bool>,
}

/// What came of asking for a pod.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// It is admitted.
    Admit,
    /// As soon as these have ended, by uid.
    AdmitAfter(Vec<String>),
    /// It is rejected.
    Reject(Vec<PredicateFailure>),
    /// The pod is critical, but no set of pods can be preempted for it: why.
    NoVictims(String),
}

impl Admitted {
    /// Whether a pod is admitted.
    pub fn has(&self, uid: &str) -> bool {
        self.shares.lock().contains_key(uid)
    }

    /// A pod that was taken in before, or that wants something else now.
    pub fn hold(&self, uid: &str, share: PodResources) {
        self.shares.lock().insert(uid.into(), share);
    }

    /// The pod has ended: others may have what it had.
    pub fn release(&self, uid: &str) {
        if self.shares.lock().remove(uid).is_some() {
            self.released.send_replace(());
        }
    }

    /// Those that are here from before and aren't among `known` are gone. Before this no new pod is admitted.
    pub fn settle(&self, known: &BTreeSet<String>) {
        self.shares.lock().retain(|uid, _| known.contains(uid));
        self.settled.send_replace(true);
    }

    /// Returns once [`Admitted::settle`] was called.
    pub async fn settled(&self) {
        // The sender lives as long as this does.
        let _ = self.settled.subscribe().wait_for(|is| *is).await;
    }

    /// Until none of these is here any more.
    pub async fn gone(&self, uids: &[String]) {
        let mut released = self.released.subscribe();
        while uids.iter().any(|uid| self.has(uid)) {
            // The sender lives as long as this does.
            let _ = released.changed().await;
        }
    }

    /// Takes a pod in, if it can be here beside the others.
    pub fn try_admit(
        &self,
        uid: &str,
        pod: &Pod,
        own: &PodResources,
        allocatable: &Amounts,
        node: Option<&Node>,
    ) -> Decision {
        let mut shares = self.shares.lock();
        let found = predicate_failures(pod, own, shares.values(), allocatable, node);
        let (lacks, fails): (Vec<_>, Vec<_>) =
            found.iter().cloned().partition(|obstacle| matches!(obstacle, PredicateFailure::InsufficientResource(_)));
        let verdict = match () {
            () if found.is_empty() => Decision::Admit,
            () if !own.is_critical => return Decision::Reject(found),
            () if !fails.is_empty() => return Decision::Reject(fails),
            () => {
                let missing = lacks.iter().filter_map(|obstacle| match obstacle {
                    PredicateFailure::InsufficientResource(shortage) => {
                        Some((shortage.resource.clone(), shortage.missing()))
                    }
                    PredicateFailure::Predicate(..) => None,
                });
                match preemption::victims(own, &shares, missing.collect()) {
                    Ok(victims) => Decision::AdmitAfter(victims),
                    Err(error) => return Decision::NoVictims(error.to_string()),
                }
            }
        };
        shares.insert(uid.into(), own.clone());
        verdict
    }
}

/// Why a pod has to go before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The machine runs short, or can't have the pod any more: the message.
    Evicted(String),
    /// A critical pod came.
    Preempted,
}

#[cfg(test)]
mod tests;
