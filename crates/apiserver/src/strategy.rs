//! What differs between a create, an update of an object and an update of its status.

use apimachinery::ObjectExt as _;
use serde_json::{Value, json};

use api::{Kind, kinds};

/// Which part of an object an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All but the status, for kinds with a status subresource.
    Main,
    Status,
    /// What a pod's containers may use.
    Resize,
    /// A pod's node.
    Binding,
    /// Whatever the caller changed (finalizers of namespaces, approvals, ephemeral containers).
    Everything,
}

/// Empty lists and maps of `metadata` are the same as none, and not kept.
fn drop_empty(object: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    object.meta_mut().retain(|_, value| !is_empty(value));
}

pub fn prepare_create(kind: &Kind, object: &mut Value) {
    drop_empty(object);
    if kind.has_status()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if kind.has_generation {
        object.set_meta("generation", 1);
    } else {
        object.meta_mut().remove("generation");
    }
    if kind == kinds::SECRETS {
        fold_string_data(object);
    }
    // At its creation alone: whoever takes it away later ends the namespace.
    if kind == kinds::NAMESPACES {
        let mut finalizers = object.array_at(&["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        object.child_mut("spec").insert("finalizers".into(), finalizers.into());
    }
    let template = match (kind.group, kind.plural()) {
        ("batch", "jobs") | ("", "replicationcontrollers") => object.at(&["spec", "template", "metadata", "labels"]),
        _ => &Value::Null,
    };
    // Of these two kinds, the object without labels has those of its pods (upstream: SetDefaults_Job).
    if template.as_object().is_some_and(|labels| !labels.is_empty()) && object.labels().is_empty() {
        let labels = template.clone();
        object.set_meta("labels", labels);
    }
}

/// Adds to a new object what the server generates, as its kind's strategy does upstream.
pub fn generate(kind: &Kind, object: &mut Value) {
    if kind == kinds::JOBS {
        select_own_pods(object);
    }
}

/// A Job finds its pods by its uid, unless it says that it brings its own selector.
fn select_own_pods(job: &mut Value) {
    if job.at(&["spec", "manualSelector"]) == &Value::Bool(true) {
        return;
    }
    let (uid, name) = (job.uid().to_string(), job.name().to_string());
    let spec = job.child_mut("spec");
    spec.insert("selector".into(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if !template.is_object() {
        return;
    }
    let metadata = template.child_mut("metadata");
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    for (key, value) in [("controller-uid", &uid), ("job-name", &name)] {
        labels[format!("batch.kubernetes.io/{key}")] = value.as_str().into();
        labels[key] = value.as_str().into();
    }
}

/// Secrets may be written with plain text, which is kept encoded like the rest.
fn fold_string_data(secret: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|m| m.remove("stringData")) else { return };
    let data = secret.child_mut("data");
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or(""));
        data.insert(key, encoded.into());
    }
}

/// Takes from `old` what the target may not change.
pub fn prepare_update(kind: &Kind, target: Target, new: &mut Value, old: &Value) {
    drop_empty(new);
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"]
    {
        match &old["metadata"][field] {
            Value::Null => {
                new.meta_mut().remove(field);
            }
            value => new.set_meta(field, value.clone()),
        }
    }
    if kind == kinds::SECRETS {
        fold_string_data(new);
    }
    let Some(map) = new.as_object_mut() else { return };
    match target {
        Target::Main if kind.has_status() => match old.get("status") {
            Some(status) => {
                map.insert("status".into(), status.clone());
            }
            None => {
                map.remove("status");
            }
        },
        Target::Status => {
            map.retain(|key, _| matches!(key.as_str(), "status" | "metadata"));
            for (key, value) in old.as_object().into_iter().flatten() {
                if key != "status" && key != "metadata" {
                    map.insert(key.clone(), value.clone());
                }
            }
            for field in kept_by_status(kind, new, old) {
                match &old["metadata"][&field] {
                    Value::Null => {
                        new.meta_mut().remove(&field);
                    }
                    value => new.set_meta(&field, value.clone()),
                }
            }
        }
        _ => {}
    }
    if kind == kinds::PODS && target == Target::Main {
        // These change by their subresource alone.
        match &old["spec"]["ephemeralContainers"] {
            Value::Null => {
                new.child_mut("spec").remove("ephemeralContainers");
            }
            present => {
                new.child_mut("spec").insert("ephemeralContainers".into(), present.clone());
            }
        }
    }
    if kind == kinds::SERVICES {
        drop_what_the_type_lacks(new, old);
    }
    if kind == kinds::NAMESPACES && target == Target::Main {
        match &old["spec"]["finalizers"] {
            Value::Null => drop(new.child_mut("spec").remove("finalizers")),
            present => drop(new.child_mut("spec").insert("finalizers".into(), present.clone())),
        }
    }
}

/// What of the metadata a write to `status` can't change: upstream's strategies differ in it.
fn kept_by_status(kind: &Kind, new: &Value, old: &Value) -> Vec<String> {
    const OWN: [&str; 2] = ["finalizers", "ownerReferences"];
    const SERVERS: [&str; 2] = ["managedFields", "resourceVersion"];
    let more: &[&str] = match (kind.group, kind.plural()) {
        ("apps", "deployments") => &["labels"],
        ("networking.k8s.io", "servicecidrs")
        | ("resource.k8s.io", "resourceclaims")
        | ("storage.k8s.io", "volumeattachments")
        | ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &["labels", "annotations"],
        ("flowcontrol.apiserver.k8s.io", _) => return all_metadata(new, old, &SERVERS),
        _ if kind.custom => return all_metadata(new, old, &SERVERS),
        _ => &[],
    };
    OWN.iter().chain(more).map(|field| (*field).to_string()).collect()
}

fn all_metadata(new: &Value, old: &Value, but: &[&str]) -> Vec<String> {
    let fields = [new, old].into_iter().flat_map(|object| object["metadata"].as_object().into_iter().flatten());
    let mut fields: Vec<String> =
        fields.map(|(field, _)| field.clone()).filter(|f| !but.contains(&f.as_str())).collect();
    fields.sort();
    fields.dedup();
    fields
}

/// A service that changes its type loses the fields that only the old type has, unless its writer set them anew. (Its
/// node ports are the allocator's to take back.)
fn drop_what_the_type_lacks(new: &mut Value, old: &Value) {
    let balanced = |s: &Value| s.str_at(&["spec", "type"]) == "LoadBalancer";
    let external = |s: &Value| balanced(s) || s.str_at(&["spec", "type"]) == "NodePort";
    let loses_balancing = balanced(old) && !balanced(new);
    let loses_outside = external(old) && !external(new);
    for (field, loses) in [
        ("externalTrafficPolicy", loses_outside),
        ("healthCheckNodePort", loses_outside),
        ("allocateLoadBalancerNodePorts", loses_balancing),
        ("loadBalancerClass", loses_balancing),
    ] {
        if loses && new["spec"][field] == old["spec"][field] {
            new.child_mut("spec").remove(field);
        }
    }
}

/// Raises the generation when something other than metadata and status changed.
pub fn count_generation(kind: &Kind, new: &mut Value, old: &Value) {
    if !kind.has_generation {
        return;
    }
    let generation = old.i64_at(&["metadata", "generation"]).unwrap_or(0);
    let mut keys = new.as_object().into_iter().chain(old.as_object()).flat_map(serde_json::Map::keys);
    let changed = keys.any(|k| !matches!(k.as_str(), "metadata" | "status") && new.get(k) != old.get(k));
    new.set_meta("generation", json!(if changed { generation + 1 } else { generation.max(1) }));
}

/// Whether an object that is being deleted has nothing left that holds it.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    object.is_deleting()
        && object.array_at(&["metadata", "finalizers"]).is_empty()
        && object.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && (kind != kinds::NAMESPACES || object.array_at(&["spec", "finalizers"]).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_spec_are_kept_apart() {
        let kind = api::find("apps", "v1", "deployments").unwrap();
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
        let labels = |group: &str, plural: &str, version: &str| {
            let kind = api::find(group, version, plural).unwrap();
            let old = json!({"metadata": {"name": "a", "labels": {"a": "old"}, "annotations": {"a": "old"}, "finalizers": ["x/y"]}});
            let mut new = json!({"metadata": {"name": "a", "labels": {"a": "new"}, "annotations": {"a": "new"}}, "status": {"x": 1}});
            prepare_update(kind, Target::Status, &mut new, &old);
            assert_eq!(new["metadata"]["finalizers"], json!(["x/y"]));
            format!("{} {}", new.str_at(&["metadata", "labels", "a"]), new.str_at(&["metadata", "annotations", "a"]))
        };
        assert_eq!(labels("apps", "deployments", "v1"), "old new");
        assert_eq!(labels("apps", "statefulsets", "v1"), "new new");
        assert_eq!(labels("storage.k8s.io", "volumeattachments", "v1"), "old old");
        assert_eq!(labels("flowcontrol.apiserver.k8s.io", "flowschemas", "v1"), "old old");
    }

    #[test]
    fn services_lose_what_their_new_type_lacks() {
        let kind = api::find("", "v1", "services").unwrap();
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
        let kind = api::find("", "v1", "secrets").unwrap();
        let mut secret = json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}});
        prepare_create(kind, &mut secret);
        assert_eq!(secret["data"]["k"], "dg==");
        assert!(secret.get("stringData").is_none());
    }
}
