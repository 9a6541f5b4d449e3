//! Predicates that decide whether a pod may run on a node: taints and tolerations, node selectors, node affinity, host ports, volumes (upstream's
//! k8s.io/component-helpers/scheduling/corev1).
//!
//! The scheduler, the DaemonSet controller, taint eviction and the kubelet's admission share them.

#![warn(missing_docs, clippy::missing_errors_doc)]

mod device_taints;
mod ports;
mod volumes;

pub use device_taints::{rule_taints, tolerates_device};
pub use ports::{HostPort, host_ports_conflict};
pub use volumes::{claim_class, storage_amount, volume_fits, volume_rank, volume_satisfies};

use std::collections::BTreeMap;

use apimachinery::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Affinity, Node, NodeSelector, NodeSelectorTerm, Taint, Toleration};
use kube::ResourceExt as _;
use serde_json::{Value, json};

/// Whether one toleration tolerates a taint (upstream's `Toleration.ToleratesTaint`).
fn toleration_matches(toleration: &Toleration, taint: &Taint) -> bool {
    let (key, effect) = (toleration.key.as_deref().unwrap_or(""), toleration.effect.as_deref().unwrap_or(""));
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && ((key.is_empty() && exists) || key == taint.key)
        && (exists || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""))
}

/// Whether one of the tolerations tolerates a taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| toleration_matches(t, taint))
}

/// For how many seconds a `NoExecute` taint is tolerated: `None` for ever, `Some(0)` not at all. The shortest `tolerationSeconds` counts.
pub fn tolerated_seconds(tolerations: &[Toleration], taint: &Taint) -> Option<i64> {
    let limits: Vec<Option<i64>> =
        tolerations.iter().filter(|t| toleration_matches(t, taint)).map(|t| t.toleration_seconds).collect();
    if limits.is_empty() {
        return Some(0);
    }
    // One without `tolerationSeconds` tolerates it for ever.
    if limits.contains(&None) { None } else { limits.into_iter().flatten().min().map(|s| s.max(0)) }
}

/// Whether a node matches one of the terms of a node selector. A term without expressions matches no node.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| node_selector_term_matches(term, node))
}

/// Whether a node matches all expressions of a term.
pub fn node_selector_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels: Vec<Value> =
        term.match_expressions.iter().flatten().filter_map(|e| serde_json::to_value(e).ok()).collect();
    let fields: Vec<Value> = term.match_fields.iter().flatten().filter_map(|e| serde_json::to_value(e).ok()).collect();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let parse = |list: Vec<Value>| LabelSelector::from_json(&json!({"matchExpressions": list})).ok();
    let (Some(labels), Some(fields)) = (parse(labels), parse(fields)) else { return false };
    let name = node.name_any();
    labels.matches_map(Some(node.labels())) && fields.matches(|k| (k == "metadata.name").then_some(name.as_str()))
}

/// Whether a node matches a pod's `nodeSelector` and `requiredDuringSchedulingIgnoredDuringExecution` node affinity.
pub fn node_affinity_matches(
    selector: Option<&BTreeMap<String, String>>,
    affinity: Option<&Affinity>,
    node: &Node,
) -> bool {
    let labels = node.labels();
    let selected = selector.into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = affinity.and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| node_selector_matches(r, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tolerations(value: Value) -> Vec<Toleration> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn time_of_toleration_is_the_shortest_unless_one_has_no_limit() {
        let taint = Taint { key: "k".into(), effect: "NoExecute".into(), value: Some("v".into()), ..Taint::default() };
        let seconds = |value: Value| tolerated_seconds(&tolerations(value), &taint);
        assert_eq!(seconds(json!([])), Some(0));
        assert_eq!(seconds(json!([{"operator": "Exists"}])), None);
        let two = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 9},
                         {"key": "k", "value": "v", "tolerationSeconds": 5}]);
        assert_eq!(seconds(two), Some(5));
        assert_eq!(seconds(json!([{"key": "k", "value": "other"}])), Some(0));
        assert_eq!(seconds(json!([{"key": "k", "value": "v", "effect": "NoSchedule"}])), Some(0));
    }

    #[test]
    fn affinity_and_node_selector_both_count() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "zone": "a", "size": "7"}}}),
        )
        .unwrap();
        let wanted = |spec: Value| {
            let selector = serde_json::from_value(spec["nodeSelector"].clone()).unwrap();
            let affinity = serde_json::from_value(spec["affinity"].clone()).unwrap();
            node_affinity_matches(Option::as_ref(&selector), Option::as_ref(&affinity), &node)
        };
        let affinity = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}})
        };
        assert!(wanted(json!({})));
        assert!(wanted(json!({"nodeSelector": {"disk": "ssd"}})));
        assert!(!wanted(json!({"nodeSelector": {"disk": "hdd"}})));
        assert!(wanted(affinity(json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["5"]}]}]))));
        assert!(wanted(affinity(
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
        )));
        assert!(!wanted(affinity(
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])
        )));
        assert!(!wanted(affinity(json!([{}]))));
    }
}
