//! Priority: `spec.priority` and `spec.preemptionPolicy` of a pod follow from its PriorityClass.

use api::kinds;
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use crate::ApiServer;
use crate::admission::AdmissionAttributes;
use crate::registry::Filter;

/// Sets the priority of a new pod.
///
/// # Errors
/// 403 without such a class, or when the pod names another value than its class.
pub fn admit(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    let classes = server.cache.of(kinds::PRIORITY_CLASSES);
    let name = pod.str_at(&["spec", "priorityClassName"]).to_string();
    let class = if name.is_empty() {
        let all = classes.list(&Filter::default()).0;
        let defaults = all.iter().map(|e| e.parse()).filter(|c| c["globalDefault"] == true);
        // Two can come into being at once: the lower one counts.
        defaults.min_by_key(|c| c.i64_at(&["value"]))
    } else {
        let Some(class) = classes.get(&name) else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(kinds::PODS.forbidden(pod.name(), &why));
        };
        Some(class.parse())
    };
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = class.name().into();
    }
    let value: Value = class.as_ref().and_then(|c| c.i64_at(&["value"])).unwrap_or(0).into();
    let policy = class.as_ref().map_or("", |c| c.str_at(&["preemptionPolicy"]));
    let policy: Value = if policy.is_empty() { "PreemptLowerPriority" } else { policy }.into();
    for (field, what, computed) in [
        ("priority", "integer value of priority", value),
        ("preemptionPolicy", "string value of PreemptionPolicy", policy),
    ] {
        let said = &pod["spec"][field];
        if !said.is_null() && *said != computed {
            let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
            let why = format!(
                "the {what} ({}) must not be provided in pod spec; priority admission controller computed {} from the \
                 given PriorityClass name",
                plain(said),
                plain(&computed)
            );
            return Err(kinds::PODS.forbidden(pod.name(), &why));
        }
        pod["spec"][field] = computed;
    }
    Ok(())
}

/// Refuses a second PriorityClass for pods that name none.
///
/// # Errors
/// 403 that names the first.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.kind != kinds::PRIORITY_CLASSES || object["globalDefault"] != true {
        return Ok(());
    }
    let all = server.cache.of(kinds::PRIORITY_CLASSES).list(&Filter::default()).0;
    let other = all.iter().map(|e| e.parse()).find(|c| c["globalDefault"] == true && c.name() != object.name());
    let Some(other) = other else { return Ok(()) };
    let why = format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
    Err(attributes.kind.forbidden(object.name(), &why))
}
