//! Predicates of a pod and a node that filters, scores and topology share: node affinity and taints.

use informer::pod::PodSpec;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use crate::pod::PodInfo;

/// The pod's tolerations.
pub fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether a node matches a pod's node selector and affinity.
pub fn matches_node_affinity(pod: &PodInfo, node: &Node) -> bool {
    pod.pod
        .spec
        .as_ref()
        .is_none_or(|s| placement::node_affinity_matches(s.node_selector.as_ref(), s.affinity.as_ref(), node))
}

/// Whether a pod has a node selector or affinity at all.
pub fn has_node_affinity(pod: &PodInfo) -> bool {
    let affinity = |spec: &PodSpec| spec.affinity.as_ref().is_some_and(|a| a.node_affinity.is_some());
    pod.pod.spec.as_ref().is_some_and(|s| s.node_selector.is_some() || affinity(s))
}

/// The first untolerated taint with the effect NoSchedule or NoExecute.
pub fn find_untolerated_taint<'a>(pod: &PodInfo, node: &'a Node) -> Option<&'a Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.into_iter().flatten().filter(hard).find(|t| !placement::tolerates(tolerations(pod), t))
}

/// Whether the pod tolerates all taints with the effect NoSchedule or NoExecute.
pub fn tolerates_hard_taints(pod: &PodInfo, node: &Node) -> bool {
    find_untolerated_taint(pod, node).is_none()
}

/// The number of untolerated taints with the effect PreferNoSchedule.
pub fn count_prefer_no_schedule_taints(pod: &PodInfo, node: &Node) -> i64 {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let soft = taints.filter(|t| t.effect == "PreferNoSchedule" && !placement::tolerates(tolerations(pod), t));
    soft.count() as i64
}
