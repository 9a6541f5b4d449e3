//! What objects use of a ResourceQuota.

use std::collections::BTreeMap;

use apimachinery::{ObjectExt as _, Quantity};
use serde_json::Value;

use crate::kinds::pod::amounts::in_scope;
use crate::kinds::{Kind, PODS};

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
    // Scopes are about pods; a quota that has some counts nothing else.
    if kind != PODS {
        return false;
    }
    scopes.iter().all(|s| in_scope(s, "Exists", &[], object))
        && terms
            .iter()
            .all(|t| in_scope(t.str_at(&["scopeName"]), t.str_at(&["operator"]), &t.strings_at(&["values"]), object))
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
