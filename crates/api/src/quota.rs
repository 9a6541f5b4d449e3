//! What objects use of a ResourceQuota.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::{ObjectExt as _, Quantity};
use serde_json::Value;

use crate::Kind;

/// Amounts by the name of the resource, as a quota's `hard` names them.
pub type Usage = BTreeMap<String, Quantity>;

fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let total = usage.entry(name.into()).or_default();
    *total = *total + amount;
}

/// What one object uses.
pub fn usage(kind: &Kind, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let one = Quantity::from_int(1);
    add(&mut usage, format!("count/{}", kind.resource()), one);
    (kind.strategy.usage)(object, &mut usage);
    if !kind.group.is_empty() {
        return usage;
    }
    match kind.plural() {
        "pods" => pod(object, &mut usage),
        "services" => {
            add(&mut usage, "services", one);
            let balanced = object["spec"]["type"] == "LoadBalancer";
            if balanced {
                add(&mut usage, "services.loadbalancers", one);
            }
            if object["spec"]["type"] == "NodePort"
                || (balanced && object["spec"]["allocateLoadBalancerNodePorts"] != false)
            {
                let ports = object.array_at(&["spec", "ports"]).len();
                add(&mut usage, "services.nodeports", Quantity::from_int(ports as i64));
            }
        }
        "persistentvolumeclaims" => {
            add(&mut usage, "persistentvolumeclaims", one);
            let storage =
                Quantity::from_json(object.at(&["spec", "resources", "requests", "storage"])).unwrap_or_default();
            add(&mut usage, "requests.storage", storage);
            let class = object.str_at(&["spec", "storageClassName"]);
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                add(&mut usage, format!("{prefix}/requests.storage"), storage);
                add(&mut usage, format!("{prefix}/persistentvolumeclaims"), one);
            }
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => add(&mut usage, kind.plural(), one),
        _ => {}
    }
    usage
}

fn pod(pod: &Value, usage: &mut Usage) {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return;
    }
    add(usage, "pods", Quantity::from_int(1));
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

/// Whether a quota's scopes let it count an object.
pub fn covers(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let scopes = quota.strings_at(&["spec", "scopes"]);
    let terms = quota.array_at(&["spec", "scopeSelector", "matchExpressions"]);
    if scopes.is_empty() && terms.is_empty() {
        return true;
    }
    // Scopes are about pods; a quota that has some counts nothing else.
    if kind.plural() != "pods" || !kind.group.is_empty() {
        return false;
    }
    scopes.iter().all(|s| in_scope(s, "Exists", &[], object))
        && terms
            .iter()
            .all(|t| in_scope(t.str_at(&["scopeName"]), t.str_at(&["operator"]), &t.strings_at(&["values"]), object))
}

fn in_scope(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
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
        _ => false,
    }
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

/// The `hard` limits of a quota.
pub fn hard(quota: &Value) -> Usage {
    let limits = quota.at(&["spec", "hard"]).as_object().into_iter().flatten();
    limits.filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v)?))).collect()
}

/// Amounts as a quota writes them: in the family of suffixes that its limit has.
pub fn written(quota: &Value, name: &str, amount: Quantity) -> String {
    let limit = quota.at(&["spec", "hard", name]);
    amount.canonical(limit.as_str().is_some_and(|l| l.ends_with('i')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
                                       {"name": "b", "resources": {"limits": {"memory": "1Gi"}}}],
                        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}]}})
    }

    #[test]
    fn a_pod_uses_what_its_containers_ask_for() {
        let kind = crate::find("", "v1", "pods").unwrap();
        let used = usage(kind, &pod());
        let get = |name: &str| used[name].to_string();
        assert_eq!((get("pods"), get("requests.cpu"), get("cpu")), ("1".into(), "2".into(), "2".into()));
        assert_eq!(get("limits.memory"), "1073741824");
        let ended = json!({"status": {"phase": "Succeeded"}, "spec": pod()["spec"]});
        assert_eq!(usage(kind, &ended).keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn containers_that_say_too_little_are_named() {
        let limits = hard(&json!({"spec": {"hard": {"limits.memory": "2Gi", "requests.cpu": 1, "pods": 3}}}));
        let found = unsaid(&limits, &pod());
        assert_eq!(found["limits.memory"].iter().collect::<Vec<_>>(), ["a", "i"]);
        assert_eq!(found["requests.cpu"].iter().collect::<Vec<_>>(), ["b"]);
        assert!(!found.contains_key("pods"));
    }

    #[test]
    fn scopes_pick_pods() {
        let kind = crate::find("", "v1", "pods").unwrap();
        let of = |scope: &str| json!({"spec": {"scopes": [scope]}});
        assert!(!covers(&of("BestEffort"), kind, &pod()));
        assert!(covers(&of("NotBestEffort"), kind, &pod()));
        assert!(covers(&of("NotTerminating"), kind, &pod()));
        assert!(!covers(&of("NotTerminating"), crate::find("", "v1", "services").unwrap(), &json!({})));
    }

    #[test]
    fn amounts_are_written_like_their_limit() {
        let quota = json!({"spec": {"hard": {"memory": "2Gi", "cpu": "2"}}});
        assert_eq!(written(&quota, "memory", "1024Mi".parse().unwrap()), "1Gi");
        assert_eq!(written(&quota, "cpu", "1500m".parse().unwrap()), "1500m");
    }
}
