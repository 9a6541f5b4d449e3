//! ResourceQuota: how much of everything a namespace may hold.

use std::collections::HashMap;
use std::sync::Arc;

use api::quota::{Usage, covers, hard, unsaid, usage, written};
use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Quantity, Status};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::in_namespace;
use crate::ApiServer;
use crate::registry::Filter;

/// One lock for each namespace that has quotas: between the check of what is used and the write that adds to it, no other
/// write may add.
#[derive(Default)]
pub struct Quotas {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Held until the write is done.
pub type Admitted = Option<OwnedMutexGuard<()>>;

/// Refuses an object that exceeds a quota of its namespace. `old` is the stored object, for an update.
///
/// # Errors
/// 403 with the quota that would be exceeded, or that asks for values which the pod lacks.
pub async fn admit(server: &ApiServer, kind: &Kind, object: &Value, old: Option<&Value>) -> Result<Admitted, Status> {
    let namespace = object.namespace();
    if !kind.namespaced || kind == kinds::EVENTS {
        return Ok(None);
    }
    // Writes to namespaces without quotas take no lock.
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

/// Kinds whose objects use of a quota what is in them. All others are only counted.
const AMOUNTS: [&Kind; 3] = [kinds::PODS, kinds::PERSISTENT_VOLUME_CLAIMS, kinds::SERVICES];

/// What the objects of this kind use of a quota now.
fn used(server: &ApiServer, kind: &Kind, quota: &Value, namespace: &str) -> Usage {
    let mut total = Usage::new();
    let Some(resource) = server.cache.resource(kind) else { return total };
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    let entries = resource.list(&filter).0;
    if !AMOUNTS.contains(&kind) {
        // Each counts as one, whatever is in it: who fills a namespace with large objects doesn't have all of them read at each write.
        let count = Quantity::from_int(i64::try_from(entries.len()).unwrap_or(i64::MAX));
        return usage(kind, &Value::Null).into_keys().map(|name| (name, count)).collect();
    }
    for entry in entries {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_that_are_only_counted_count_as_one_each() {
        let full = json!({"spec": {"type": "LoadBalancer", "storageClassName": "c", "resources": {"requests": {"storage": "1Gi", "cpu": "1"}},
            "ports": [{"port": 80, "nodePort": 30000}], "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        for kind in api::KINDS.iter() {
            let one = usage(kind, &Value::Null);
            let is_counted = !AMOUNTS.contains(&kind);
            assert_eq!(one == usage(kind, &full), is_counted, "{}: it belongs to AMOUNTS, or doesn't", kind.kind);
            assert!(!is_counted || one.values().all(|amount| *amount == Quantity::from_int(1)), "{}", kind.kind);
        }
    }
}
