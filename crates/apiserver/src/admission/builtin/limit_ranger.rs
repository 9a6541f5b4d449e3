//! LimitRanger: what a namespace lets a container, pod or claim ask for, and what containers ask for by default.

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Quantity, Status};
use serde_json::{Value, json};

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

/// Refuses a pod or claim that is outside the bounds of its namespace's LimitRanges.
pub fn check(server: &ApiServer, kind: &Kind, object: &Value) -> Result<(), Status> {
    let (is_pod, is_claim) = (kind == kinds::PODS, kind == kinds::PERSISTENT_VOLUME_CLAIMS);
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

/// Least, most, and the ratio of limit to request.
fn bounds(of: &str, limit: &Value, resources: &Value, problems: &mut Vec<String>) {
    let each = |key: &str| -> Vec<(String, Value)> {
        limit[key].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    for (name, least) in each("min") {
        let (Some(bound), request) = (Quantity::from_json(&least), &resources["requests"][&name]) else { continue };
        match Quantity::from_json(request) {
            None => {
                problems.push(format!("minimum {name} usage per {of} is {}.  No request is specified", text(&least)))
            }
            Some(amount) if amount < bound => {
                problems.push(format!(
                    "minimum {name} usage per {of} is {}, but request is {}",
                    text(&least),
                    text(request)
                ));
            }
            _ => {}
        }
        let given = &resources["limits"][&name];
        if Quantity::from_json(given).is_some_and(|l| l < bound) {
            problems.push(format!("minimum {name} usage per {of} is {}, but limit is {}", text(&least), text(given)));
        }
    }
    for (name, most) in each("max") {
        let Some(bound) = Quantity::from_json(&most) else { continue };
        let (request, given) = (&resources["requests"][&name], &resources["limits"][&name]);
        if of == "PersistentVolumeClaim" {
            if Quantity::from_json(request).is_some_and(|r| r > bound) {
                problems.push(format!(
                    "maximum {name} usage per {of} is {}, but request is {}",
                    text(&most),
                    text(request)
                ));
            }
            continue;
        }
        match Quantity::from_json(given) {
            None => problems.push(format!("maximum {name} usage per {of} is {}.  No limit is specified", text(&most))),
            Some(amount) if amount > bound => {
                problems.push(format!(
                    "maximum {name} usage per {of} is {}, but limit is {}",
                    text(&most),
                    text(given)
                ));
            }
            _ => {}
        }
        if Quantity::from_json(request).is_some_and(|r| r > bound) {
            problems.push(format!(
                "maximum {name} usage per {of} is {}, but request is {}",
                text(&most),
                text(request)
            ));
        }
    }
    for (name, ratio) in each("maxLimitRequestRatio") {
        let (request, given) =
            (Quantity::from_json(&resources["requests"][&name]), Quantity::from_json(&resources["limits"][&name]));
        if let (Some(request), Some(given), Some(bound)) = (request, given, Quantity::from_json(&ratio))
            && request.milli() > 0
        {
            let actual = given.milli() as f64 / request.milli() as f64;
            if actual > bound.milli() as f64 / 1000.0 {
                problems.push(format!(
                    "{name} max limit to request ratio per {of} is {}, but provided ratio is {actual:.6}",
                    text(&ratio)
                ));
            }
        }
    }
}
