//! What pods ask for, as quotas and nodes count it.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::{ObjectExt as _, Quantity};
use serde_json::Value;

use crate::kinds::quota::{Usage, add, count};

/// Adds what a pod uses of a quota.
pub fn usage(pod: &Value, usage: &mut Usage) {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return;
    }
    count(usage, super::KIND.plural);
    for part in ["requests", "limits"] {
        for (name, amount) in pod_amounts(pod, part) {
            if part == "requests" && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                add(usage, name.clone(), amount);
            }
            add(usage, format!("{part}.{name}"), amount);
        }
    }
}

/// The requests or limits of a pod: its own where it has some (KEP-2837), else those of its containers; and the overhead of its
/// runtime.
pub fn pod_amounts(pod: &Value, part: &str) -> Usage {
    let mut total = container_amounts(&pod["spec"], part);
    for (name, amount) in pod.at(&["spec", "resources", part]).as_object().into_iter().flatten() {
        if let Some(amount) = Quantity::from_json(amount) {
            total.insert(name.clone(), amount);
        }
    }
    for (name, amount) in pod.at(&["spec", "overhead"]).as_object().into_iter().flatten() {
        if let Some(amount) = Quantity::from_json(amount) {
            add(&mut total, name.clone(), amount);
        }
    }
    total
}

/// The requests or limits of a pod's containers and sidecars together, or what its init containers need if that is more.
pub fn container_amounts(spec: &Value, part: &str) -> Usage {
    let of = |container: &Value| -> Usage {
        let amounts = container["resources"][part].as_object().into_iter().flatten();
        amounts.filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v)?))).collect()
    };
    let (mut total, mut sidecars, mut peak) = (Usage::new(), Usage::new(), Usage::new());
    for container in spec.array_at(&["containers"]) {
        of(container).into_iter().for_each(|(k, v)| add(&mut total, k, v));
    }
    for container in spec.array_at(&["initContainers"]) {
        if container["restartPolicy"] == "Always" {
            of(container).into_iter().for_each(|(k, v)| add(&mut sidecars, k, v));
            continue;
        }
        let mut now = sidecars.clone();
        of(container).into_iter().for_each(|(k, v)| add(&mut now, k, v));
        for (name, amount) in now {
            let most = peak.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    sidecars.into_iter().for_each(|(k, v)| add(&mut total, k, v));
    for (name, amount) in peak {
        let most = total.entry(name).or_default();
        *most = (*most).max(amount);
    }
    total
}

/// Whether a scope of a quota, alone or in a term of a selector, is one that the pod is in.
pub fn in_scope(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let terminating = !pod.at(&["spec", "activeDeadlineSeconds"]).is_null();
    let best_effort = pod_amounts(pod, "requests").is_empty() && pod_amounts(pod, "limits").is_empty();
    let class = pod.str_at(&["spec", "priorityClassName"]);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => match operator {
            "In" => values.contains(&class),
            "NotIn" => !values.contains(&class),
            "DoesNotExist" => class.is_empty(),
            _ => !class.is_empty(),
        },
        "CrossNamespacePodAffinity" => looks_elsewhere(pod),
        _ => false,
    }
}

/// Whether a pod's affinity is about pods of other namespaces, too.
fn looks_elsewhere(pod: &Value) -> bool {
    let elsewhere = |term: &Value| !term.array_at(&["namespaces"]).is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let of = pod.at(&["spec", "affinity", kind]);
        of.array_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(elsewhere)
            || of
                .array_at(&["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|preferred| elsewhere(&preferred["podAffinityTerm"]))
    })
}

/// Containers of a pod that don't say what a quota counts, by the resource: with such a quota they have to.
pub fn unsaid(hard: &Usage, pod: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut unsaid: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in hard.keys() {
        let (part, resource) = match name.split_once('.') {
            Some((part @ ("requests" | "limits"), resource @ ("cpu" | "memory"))) => (part, resource),
            None if matches!(name.as_str(), "cpu" | "memory") => ("requests", name.as_str()),
            _ => continue,
        };
        if !pod.at(&["spec", "resources", part, resource]).is_null() {
            continue;
        }
        let all = pod.array_at(&["spec", "containers"]).iter().chain(pod.array_at(&["spec", "initContainers"]));
        for container in all.filter(|c| c["resources"][part][resource].is_null()) {
            unsaid.entry(name.clone()).or_default().insert(container.str_at(&["name"]).into());
        }
    }
    unsaid
}
