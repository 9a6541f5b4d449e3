//! LimitRanger: what a namespace lets a container, pod or claim ask for, and what containers ask for by default.

use api::{Subresource, kinds};
use apimachinery::{ObjectExt as _, Quantity, Status};
use serde_json::{Value, json};

use super::super::{AdmissionAttributes, Operation};
use super::in_namespace;
use crate::ApiServer;

/// Gives the containers of a new pod the defaults of the namespace's LimitRanges.
pub fn apply_defaults(server: &ApiServer, pod: &mut Value) {
    if server.cache.of(kinds::LIMIT_RANGES).len() == 0 {
        return;
    }
    let mut told = Vec::new();
    for range in in_namespace(server, kinds::LIMIT_RANGES, pod.namespace()) {
        for limit in range.array_at(&["spec", "limits"]).iter().filter(|l| l["type"] == "Container") {
            for list in ["containers", "initContainers"] {
                let containers = pod["spec"][list].as_array_mut();
                for container in containers.into_iter().flatten() {
                    told.extend(default_container(container, limit));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = text.into();
        // It follows from what was just set.
        if let Some(status) = pod["status"].as_object_mut() {
            status.remove("qosClass");
        }
    }
}

fn default_container(container: &mut Value, limit: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let name = container.str_at(&["name"]).to_string();
    for (part, key, word) in [("limits", "default", "limit"), ("requests", "defaultRequest", "request")] {
        let mut set = Vec::new();
        for (resource, amount) in limit[key].as_object().into_iter().flatten() {
            if container["resources"][part][resource].is_null() {
                container["resources"][part][resource] = amount.clone();
                set.push(resource.clone());
            }
        }
        if !set.is_empty() {
            told.push(format!("{} {word} for container {name}", set.join(", ")));
        }
    }
    told
}

/// Refuses a pod or claim that is outside the bounds of its namespace's LimitRanges. Of a pod only `resize` changes what is bounded.
///
/// # Errors
/// 403 with all bounds that it exceeds.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind;
    let (is_pod, is_claim) = match (attributes.operation, attributes.subresource) {
        (Operation::Create, None) => (kind == kinds::PODS, kind == kinds::PERSISTENT_VOLUME_CLAIMS),
        (Operation::Update, None) => (false, kind == kinds::PERSISTENT_VOLUME_CLAIMS),
        (Operation::Update, Some(Subresource::Resize)) => (kind == kinds::PODS, false),
        _ => (false, false),
    };
    if !(is_pod || is_claim) || server.cache.of(kinds::LIMIT_RANGES).len() == 0 {
        return Ok(());
    }
    let mut problems = Vec::new();
    for range in in_namespace(server, kinds::LIMIT_RANGES, object.namespace()) {
        for limit in range.array_at(&["spec", "limits"]) {
            match limit.str_at(&["type"]) {
                "Container" if is_pod => {
                    let lists = ["containers", "initContainers"];
                    for container in lists.iter().flat_map(|l| object.array_at(&["spec", l])) {
                        bounds("Container", limit, &container["resources"], &mut problems);
                    }
                }
                "Pod" if is_pod => {
                    let of = |part: &str| -> Value {
                        api::quota::pod_amounts(object, part)
                            .into_iter()
                            .map(|(k, v)| (k, json!(v.to_string())))
                            .collect()
                    };
                    let sums = json!({"requests": of("requests"), "limits": of("limits")});
                    bounds("Pod", limit, &sums, &mut problems);
                }
                "PersistentVolumeClaim" if is_claim => {
                    bounds("PersistentVolumeClaim", limit, &object["spec"]["resources"], &mut problems);
                }
                _ => {}
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let why = if let [one] = problems.as_slice() { one.clone() } else { format!("[{}]", problems.join(", ")) };
    Err(kind.forbidden(object.name(), &why))
}

/// Appends how `resources` of a container, pod or claim (`of`) exceed one item of a LimitRange, in upstream's words.
fn bounds(of: &str, limit: &Value, resources: &Value, problems: &mut Vec<String>) {
    problems.extend(entries(&limit["min"]).flat_map(|(name, bound)| below_min(of, name, bound, resources)));
    problems.extend(entries(&limit["max"]).flat_map(|(name, bound)| above_max(of, name, bound, resources)));
    let ratios = entries(&limit["maxLimitRequestRatio"]);
    problems.extend(ratios.filter_map(|(name, ratio)| above_ratio(of, name, ratio, resources)));
}

fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

/// A quantity as it was written.
fn text(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), String::from)
}

fn below_min(of: &str, name: &str, min: &Value, resources: &Value) -> Vec<String> {
    let Some(bound) = Quantity::from_json(min) else { return Vec::new() };
    let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
    let rule = format!("minimum {name} usage per {of} is {}", text(min));
    let mut problems = Vec::new();
    match Quantity::from_json(request) {
        None => problems.push(format!("{rule}.  No request is specified")),
        Some(amount) if amount < bound => problems.push(format!("{rule}, but request is {}", text(request))),
        Some(_) => {}
    }
    if Quantity::from_json(limit).is_some_and(|amount| amount < bound) {
        problems.push(format!("{rule}, but limit is {}", text(limit)));
    }
    problems
}

fn above_max(of: &str, name: &str, max: &Value, resources: &Value) -> Vec<String> {
    let Some(bound) = Quantity::from_json(max) else { return Vec::new() };
    let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
    let rule = format!("maximum {name} usage per {of} is {}", text(max));
    let mut problems = Vec::new();
    // Claims have requests alone.
    if of != "PersistentVolumeClaim" {
        match Quantity::from_json(limit) {
            None => problems.push(format!("{rule}.  No limit is specified")),
            Some(amount) if amount > bound => problems.push(format!("{rule}, but limit is {}", text(limit))),
            Some(_) => {}
        }
    }
    if Quantity::from_json(request).is_some_and(|amount| amount > bound) {
        problems.push(format!("{rule}, but request is {}", text(request)));
    }
    problems
}

fn above_ratio(of: &str, name: &str, max: &Value, resources: &Value) -> Option<String> {
    let request = Quantity::from_json(&resources["requests"][name])?;
    let limit = Quantity::from_json(&resources["limits"][name])?;
    let bound = Quantity::from_json(max)?;
    if request.milli() <= 0 {
        return None;
    }
    let ratio = limit.milli() as f64 / request.milli() as f64;
    let rule = format!("{name} max limit to request ratio per {of} is {}", text(max));
    (ratio > bound.milli() as f64 / 1000.0).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
}
