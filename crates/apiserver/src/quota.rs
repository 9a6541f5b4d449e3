//! LimitRange and ResourceQuota: what a namespace lets its objects ask for, and how much of everything it may hold.

use std::collections::HashMap;
use std::sync::Arc;

use api::quota::{Usage, covers, hard, unsaid, usage, written};
use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Quantity, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use crate::ApiServer;
use crate::object::Filter;

/// One lock for each namespace that has quotas: between the look at what is used and the write that adds to it, nobody
/// else may add.
#[derive(Default)]
pub struct Quotas {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Held until the write is done.
pub type Admitted = Option<OwnedMutexGuard<()>>;

fn in_namespace(server: &ApiServer, kind: &'static Kind, namespace: &str) -> Vec<Value> {
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    server.cache.of(kind).list(&filter).0.iter().map(|e| e.parse()).collect()
}

/// Refuses an object that exceeds a quota of its namespace. `old` is the stored object, for an update.
pub async fn admit(server: &ApiServer, kind: &Kind, object: &Value, old: Option<&Value>) -> Result<Admitted, Status> {
    let namespace = object.namespace();
    if !kind.namespaced || kind == kinds::EVENTS {
        return Ok(None);
    }
    // Nothing is done on the way of those who have no quotas.
    if server.cache.of(kinds::RESOURCE_QUOTAS).len() == 0
        || in_namespace(server, kinds::RESOURCE_QUOTAS, namespace).is_empty()
    {
        return Ok(None);
    }
    let mut more = usage(kind, object);
    if let Some(old) = old {
        let before = usage(kind, old);
        more.retain(|name, amount| before.get(name).is_none_or(|b| *amount > *b));
        more.iter_mut().for_each(|(name, amount)| *amount = *amount - before.get(name).copied().unwrap_or_default());
        if more.is_empty() {
            return Ok(None);
        }
    }
    let lock = server.quotas.locks.lock().entry(namespace.into()).or_default().clone();
    let guard = lock.lock_owned().await;
    let mut quotas = in_namespace(server, kinds::RESOURCE_QUOTAS, namespace);
    quotas.retain(|quota| covers(quota, kind, object));
    let refuse = |why: String| {
        let name = if object.name().is_empty() { object.meta("generateName") } else { object.name() };
        Err(kind.forbidden(name, &why))
    };
    let pod = kind == kinds::PODS;
    for quota in quotas.iter().filter(|_| pod && old.is_none()) {
        let unsaid = unsaid(&hard(quota), object);
        if !unsaid.is_empty() {
            let parts: Vec<String> = unsaid
                .iter()
                .map(|(name, containers)| {
                    format!("{name} for: {}", containers.iter().map(String::as_str).collect::<Vec<_>>().join(","))
                })
                .collect();
            return refuse(format!("failed quota: {}: must specify {}", quota.name(), parts.join("; ")));
        }
    }
    for quota in &quotas {
        if let Some(why) = excess(server, kind, namespace, quota, &more) {
            return refuse(why);
        }
    }
    Ok(Some(guard))
}

/// How `more` would exceed a quota, in words.
fn excess(server: &ApiServer, kind: &Kind, namespace: &str, quota: &Value, more: &Usage) -> Option<String> {
    let limits = hard(quota);
    let counted: Usage =
        more.iter().filter(|(name, _)| limits.contains_key(*name)).map(|(k, v)| (k.clone(), *v)).collect();
    if counted.is_empty() {
        return None;
    }
    let used = used(server, kind, quota, namespace);
    let now = |name: &str| used.get(name).copied().unwrap_or_default();
    let over: Vec<&String> =
        counted.iter().filter(|(name, amount)| now(name) + **amount > limits[*name]).map(|(n, _)| n).collect();
    if over.is_empty() {
        return None;
    }
    let list = |amount: &dyn Fn(&str) -> Quantity| {
        over.iter().map(|n| format!("{n}={}", written(quota, n, amount(n)))).collect::<Vec<_>>().join(",")
    };
    Some(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name(),
        list(&|n| counted[n]),
        list(&now),
        list(&|n| limits[n])
    ))
}

/// What the objects of this kind use of a quota now.
fn used(server: &ApiServer, kind: &Kind, quota: &Value, namespace: &str) -> Usage {
    let mut total = Usage::new();
    let Some(resource) = server.cache.resource(kind) else { return total };
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    for entry in resource.list(&filter).0 {
        let object = entry.parse();
        if covers(quota, kind, &object) {
            for (name, amount) in usage(kind, &object) {
                let sum = total.entry(name).or_default();
                *sum = *sum + amount;
            }
        }
    }
    total
}

/// Gives the containers of a new pod the defaults of the namespace's LimitRanges.
pub fn apply_limit_defaults(server: &ApiServer, pod: &mut Value) {
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
pub fn check_limits(server: &ApiServer, kind: &Kind, object: &Value) -> Result<(), Status> {
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
