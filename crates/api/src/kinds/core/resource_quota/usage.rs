//! What objects use of a ResourceQuota.

use std::collections::BTreeMap;

use apimachinery::{ObjectExt as _, Quantity};
use serde_json::Value;

use crate::kinds::pod::amounts::in_scope;
use crate::kinds::{Kind, PERSISTENT_VOLUME_CLAIMS, PODS};

pub use crate::kinds::pod::amounts::{container_amounts, pod_amounts, unsaid};

/// Amounts by the name of the resource, as a quota's `hard` names them.
pub type Usage = BTreeMap<String, Quantity>;

pub(crate) fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let total = usage.entry(name.into()).or_default();
    *total = *total + amount;
}

/// Adds one.
pub(crate) fn count(usage: &mut Usage, name: impl Into<String>) {
    add(usage, name, Quantity::from_int(1));
}

/// What one object uses.
pub fn usage(kind: &Kind, object: &Value) -> Usage {
    let mut usage = Usage::new();
    count(&mut usage, format!("count/{}", kind.resource()));
    (kind.strategy.usage)(object, &mut usage);
    usage
}

/// Whether a quota's scopes let it count an object.
pub fn covers(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let scopes = quota.strings_at(&["spec", "scopes"]);
    let terms = quota.array_at(&["spec", "scopeSelector", "matchExpressions"]);
    if scopes.is_empty() && terms.is_empty() {
        return true;
    }
    // A quota that has scopes counts nothing that they say nothing of.
    let is_in = |scope: &str, operator: &str, values: &[&str]| match scope {
        "VolumeAttributesClass" => kind == PERSISTENT_VOLUME_CLAIMS && has_class(operator, values, object),
        _ => kind == PODS && in_scope(scope, operator, values, object),
    };
    scopes.iter().all(|scope| is_in(scope, "Exists", &[]))
        && terms.iter().all(|t| is_in(t.str_at(&["scopeName"]), t.str_at(&["operator"]), &t.strings_at(&["values"])))
}

/// Whether the class of a claim's volume, be it the present, the wanted or the one on the way, is as a term says (KEP-3751).
fn has_class(operator: &str, values: &[&str], claim: &Value) -> bool {
    let paths: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    let classes: Vec<&str> = paths.iter().map(|path| claim.str_at(path)).filter(|class| !class.is_empty()).collect();
    let is_one = || classes.iter().any(|class| values.contains(class));
    match operator {
        "In" => is_one(),
        "NotIn" => !is_one(),
        "DoesNotExist" => classes.is_empty(),
        _ => !classes.is_empty(),
    }
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
        let kind = PODS;
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
        let kind = PODS;
        let of = |scope: &str| json!({"spec": {"scopes": [scope]}});
        assert!(!covers(&of("BestEffort"), kind, &pod()));
        assert!(covers(&of("NotBestEffort"), kind, &pod()));
        assert!(covers(&of("NotTerminating"), kind, &pod()));
        assert!(!covers(&of("NotTerminating"), crate::kinds::SERVICES, &json!({})));
    }

    #[test]
    fn amounts_are_written_like_their_limit() {
        let quota = json!({"spec": {"hard": {"memory": "2Gi", "cpu": "2"}}});
        assert_eq!(written(&quota, "memory", "1024Mi".parse().unwrap()), "1Gi");
        assert_eq!(written(&quota, "cpu", "1500m".parse().unwrap()), "1500m");
    }
}
