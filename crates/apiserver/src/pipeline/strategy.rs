//! What differs between a create, an update of an object and an update of its status.

use std::collections::BTreeSet;

use apimachinery::{ObjectExt as _, clock};
use serde_json::{Value, json};

use api::kinds::{StatusKeeps, Target};
use api::{Kind, kinds};

/// Empty lists and maps of `metadata` are the same as none, and not kept.
fn drop_empty(object: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    object.meta_mut().retain(|_, value| !is_empty(value));
}

/// Removes what a new object can't have, and sets its generation.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    drop_empty(object);
    if kind.has_status()
        && !kind.strategy.created_with_status
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if kind.has_generation {
        object.set_meta("generation", 1);
    } else {
        object.meta_mut().remove("generation");
    }
    (kind.strategy.prepare_create)(object);
}

/// Sets the condition of a new pod that has scheduling gates (KEP-3521).
pub fn set_scheduling_gated(kind: &Kind, pod: &mut Value) {
    if kind == kinds::PODS && !pod.array_at(&["spec", "schedulingGates"]).is_empty() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": clock::now_rfc3339()});
        pod.child_mut("status").insert("conditions".into(), json!([condition]));
    }
}

/// Takes from `old` what the target may not change.
pub fn prepare_update(kind: &Kind, target: Target, new: &mut Value, old: &Value) {
    drop_empty(new);
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"]
    {
        keep_meta(field, new, old);
    }
    if !new.is_object() {
        return;
    }
    match target {
        Target::Main if kind.has_status() => keep("status", new, old),
        Target::Status => {
            let fields = |object: &Value| object.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
            let all: BTreeSet<String> = [fields(new), fields(old)].into_iter().flat_map(Vec::into_iter).collect();
            for field in all.iter().filter(|field| !matches!(field.as_str(), "status" | "metadata")) {
                keep(field, new, old);
            }
            for field in kept_by_status(kind, new, old) {
                keep_meta(&field, new, old);
            }
        }
        _ => {}
    }
    (kind.strategy.prepare_update)(new, old, target);
}

/// A field of the new object becomes what it was.
fn keep(field: &str, new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(map.insert(field.into(), value.clone())),
        None => drop(map.remove(field)),
    }
}

fn keep_meta(field: &str, new: &mut Value, old: &Value) {
    match &old["metadata"][field] {
        Value::Null => drop(new.meta_mut().remove(field)),
        value => new.set_meta(field, value.clone()),
    }
}

/// What of the metadata a write to `status` can't change.
fn kept_by_status(kind: &Kind, new: &Value, old: &Value) -> Vec<String> {
    const SERVERS: [&str; 2] = ["managedFields", "resourceVersion"];
    let fields: &[&str] = match kind.strategy.status_keeps {
        StatusKeeps::FinalizersAndOwners => &["finalizers", "ownerReferences"],
        StatusKeeps::LabelsToo => &["finalizers", "ownerReferences", "labels"],
        StatusKeeps::LabelsAndAnnotationsToo => &["finalizers", "ownerReferences", "labels", "annotations"],
        StatusKeeps::All => {
            let all = [new, old].into_iter().flat_map(|object| object["metadata"].as_object().into_iter().flatten());
            let all: BTreeSet<&String> =
                all.map(|(field, _)| field).filter(|f| !SERVERS.contains(&f.as_str())).collect();
            return all.into_iter().cloned().collect();
        }
    };
    fields.iter().map(|field| (*field).to_string()).collect()
}

/// Raises the generation when something other than metadata and status changed. A status that has no subresource of its own is a part of
/// a custom resource like any other.
pub fn count_generation(kind: &Kind, new: &mut Value, old: &Value) {
    if !kind.has_generation {
        return;
    }
    let generation = old.i64_at(&["metadata", "generation"]).unwrap_or(0);
    let mut keys = new.as_object().into_iter().chain(old.as_object()).flat_map(serde_json::Map::keys);
    let status_counts = kind.custom && !kind.has_status();
    let counts = |key: &str| key != "metadata" && (key != "status" || status_counts);
    let changed = keys.any(|k| counts(k) && new.get(k) != old.get(k));
    new.set_meta("generation", json!(if changed { generation + 1 } else { generation.max(1) }));
}

/// Whether an object that is being deleted has nothing left that holds it.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    object.is_deleting()
        && object.array_at(&["metadata", "finalizers"]).is_empty()
        && object.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && !(kind.strategy.deletion.is_held)(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_spec_are_kept_apart() {
        let kind = kinds::DEPLOYMENTS;
        let old =
            json!({"metadata": {"name": "a", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let sent = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        let mut main = sent.clone();
        prepare_update(kind, Target::Main, &mut main, &old);
        count_generation(kind, &mut main, &old);
        assert_eq!(
            main,
            json!({"metadata": {"name": "a", "generation": 4}, "spec": {"replicas": 2}, "status": {"replicas": 1}})
        );
        let mut status = sent;
        prepare_update(kind, Target::Status, &mut status, &old);
        count_generation(kind, &mut status, &old);
        assert_eq!(
            status,
            json!({"metadata": {"name": "a", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 9}})
        );
    }

    #[test]
    fn metadata_stays_as_far_as_the_kind_keeps_it_from_its_status() {
        let labels = |kind: &Kind| {
            let old = json!({"metadata": {"name": "a", "labels": {"a": "old"}, "annotations": {"a": "old"}, "finalizers": ["x/y"]}});
            let mut new = json!({"metadata": {"name": "a", "labels": {"a": "new"}, "annotations": {"a": "new"}}, "status": {"x": 1}});
            prepare_update(kind, Target::Status, &mut new, &old);
            assert_eq!(new["metadata"]["finalizers"], json!(["x/y"]));
            format!("{} {}", new.str_at(&["metadata", "labels", "a"]), new.str_at(&["metadata", "annotations", "a"]))
        };
        assert_eq!(labels(kinds::DEPLOYMENTS), "old new");
        assert_eq!(labels(kinds::STATEFUL_SETS), "new new");
        assert_eq!(labels(kinds::VOLUME_ATTACHMENTS), "old old");
        assert_eq!(labels(kinds::FLOW_SCHEMAS), "old old");
    }

    #[test]
    fn services_lose_what_their_new_type_lacks() {
        let kind = kinds::SERVICES;
        let old = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "loadBalancerClass": "a/b",
            "allocateLoadBalancerNodePorts": true}});
        let change = |kind_of: &str, policy: &str| {
            let mut new = old.clone();
            new["spec"]["type"] = kind_of.into();
            new["spec"]["externalTrafficPolicy"] = policy.into();
            prepare_update(kind, Target::Main, &mut new, &old);
            new["spec"].clone()
        };
        assert_eq!(change("ClusterIP", "Cluster"), json!({"type": "ClusterIP"}));
        assert_eq!(change("NodePort", "Cluster"), json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"}));
        // Set by the writer: kept, for validation to refuse.
        assert_eq!(change("ClusterIP", "Local"), json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"}));
    }

    #[test]
    fn plain_text_of_secrets_is_encoded() {
        let kind = kinds::SECRETS;
        let mut secret = json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}});
        prepare_create(kind, &mut secret);
        assert_eq!(secret["data"]["k"], "dg==");
        assert!(secret.get("stringData").is_none());
    }
}
