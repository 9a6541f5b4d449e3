//! The taints that a node gets by its conditions.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::nodes::taints;
use crate::toolkit::{Result, ignore};

/// The taints that conditions of a node bring: condition, its status, taint.
const OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "not-ready"),
    ("Ready", "Unknown", "unreachable"),
    ("MemoryPressure", "True", "memory-pressure"),
    ("DiskPressure", "True", "disk-pressure"),
    ("PIDPressure", "True", "pid-pressure"),
    ("NetworkUnavailable", "True", "network-unavailable"),
];
const UNSCHEDULABLE: &str = "unschedulable";
const PREFIX: &str = "node.kubernetes.io/";

/// Whether a taint is that of a key (after the prefix) and an effect.
pub(super) fn is_taint(taint: &Taint, (key, effect): (&str, &str)) -> bool {
    taint.key.strip_prefix(PREFIX) == Some(key) && taint.effect == effect
}

/// The taints that a node should have by its conditions: key (after the prefix) and effect.
pub(super) fn wanted_taints(node: &Node, lost: bool) -> Vec<(&'static str, &'static str)> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut wanted = Vec::new();
    for (kind, status, key) in OF_CONDITIONS {
        let found = conditions.iter().find(|c| c.type_ == kind);
        let is_so = match kind {
            // Nothing was heard: that counts, not what was said last.
            "Ready" if lost => status == "Unknown",
            // A node that never said anything isn't ready.
            "Ready" => found.map_or("False", |c| c.status.as_str()) == status,
            _ => !lost && found.is_some_and(|c| c.status == status),
        };
        if is_so {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// Gives a node the taints that it should have, and takes those that it shouldn't.
///
/// # Errors
/// The API refuses the taints of a node that is there.
pub(super) async fn write_taints(api: &Api<Node>, node: &Node, wanted: &[(&'static str, &'static str)]) -> Result {
    let present = taints(node);
    let ours = |t: &Taint| {
        let known = OF_CONDITIONS.iter().map(|(_, _, key)| *key).chain([UNSCHEDULABLE]);
        t.key.strip_prefix(PREFIX).is_some_and(|key| known.into_iter().any(|k| k == key))
    };
    let now = apimachinery::clock::now_rfc3339();
    let mut taints: Vec<Value> = Vec::new();
    for taint in present.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is_taint(t, *w))) {
        let mut value = serde_json::to_value(taint).unwrap_or_default();
        if taint.effect == "NoExecute" && taint.time_added.is_none() {
            // From now on the seconds count for which a pod tolerates it.
            value["timeAdded"] = now.as_str().into();
        }
        taints.push(value);
    }
    for (key, effect) in wanted.iter().filter(|w| !present.iter().any(|t| is_taint(t, **w))) {
        taints.push(json!({"key": format!("{PREFIX}{key}"), "effect": effect, "timeAdded": now}));
    }
    if json!(present) == json!(taints) {
        return Ok(());
    }
    let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    ignore(api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_bring_taints() {
        let node = |conditions: Value, unschedulable: bool| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": unschedulable},
                "status": {"conditions": conditions}}))
            .unwrap()
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let well = json!([condition("Ready", "True"), condition("DiskPressure", "False")]);
        assert_eq!(wanted_taints(&node(well.clone(), false), false), []);
        assert_eq!(wanted_taints(&node(well.clone(), true), false), [("unschedulable", "NoSchedule")]);
        let gone = [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")];
        assert_eq!(wanted_taints(&node(well, false), true), gone);
        let low = json!([condition("Ready", "True"), condition("MemoryPressure", "True")]);
        assert_eq!(wanted_taints(&node(low, false), false), [("memory-pressure", "NoSchedule")]);
        let new = wanted_taints(&node(json!([]), false), false);
        assert_eq!(new, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]);
    }
}
