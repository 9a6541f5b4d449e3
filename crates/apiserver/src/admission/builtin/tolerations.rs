//! DefaultTolerationSeconds: pods stay on a node that is lost or not ready for five minutes, unless they say otherwise.

use apimachinery::ObjectExt as _;
use serde_json::{Value, json};

use super::push;

/// Adds the two tolerations that a pod lacks.
pub fn add_defaults(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod.array_at(&["spec", "tolerations"]).iter().any(|t| {
            let effect = t.str_at(&["effect"]);
            (t["key"] == key || (t["key"].is_null() && t["operator"] == "Exists"))
                && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(&mut pod["spec"], "tolerations", toleration);
        }
    }
}
