//! Defaults of `admissionregistration.k8s.io/v1`.

use serde_json::{Map, Value, json};

use super::{child, default, items};

pub(super) fn admission(plural: &str, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    for hook in items(object, "webhooks") {
        default(hook, "failurePolicy", || json!("Fail"));
        default(hook, "timeoutSeconds", || json!(10));
        if plural == "mutatingwebhookconfigurations" {
            default(hook, "reinvocationPolicy", || json!("Never"));
        }
        selection(hook, "rules");
        if let Some(service) = child(hook, "clientConfig").and_then(|c| child(c, "service")) {
            default(service, "port", || json!(443));
        }
    }
    let Some(spec) = child(object, "spec") else { return };
    if plural.ends_with("policies") {
        default(spec, "failurePolicy", || json!("Fail"));
    }
    for part in ["matchConstraints", "matchResources"] {
        if let Some(resources) = child(spec, part) {
            selection(resources, "resourceRules");
            items(resources, "excludeResourceRules").for_each(any_scope);
        }
    }
}

/// What webhooks and policies have in common in how they choose requests.
fn selection(of: &mut Map<String, Value>, rules: &str) {
    default(of, "matchPolicy", || json!("Equivalent"));
    default(of, "namespaceSelector", || json!({}));
    default(of, "objectSelector", || json!({}));
    items(of, rules).for_each(any_scope);
}

fn any_scope(rule: &mut Map<String, Value>) {
    default(rule, "scope", || json!("*"));
}
