//! TaintNodesByCondition: a new node gets no pods before somebody has looked whether it is ready.

use apimachinery::ObjectExt as _;
use serde_json::{Value, json};

use super::push;

/// Gives a new node the taint that the node controller takes away when the node is ready.
pub fn add(node: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let is_it = |taint: &Value| taint["key"] == KEY && taint["effect"] == "NoSchedule";
    if node.array_at(&["spec", "taints"]).iter().any(is_it) {
        return;
    }
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    push(&mut node["spec"], "taints", json!({"key": KEY, "effect": "NoSchedule"}));
}
