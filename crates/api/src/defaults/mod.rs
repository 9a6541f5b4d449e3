//! What upstream fills in where a manifest is silent. The result is visible in `kubectl get -o yaml`, so it must be
//! the same, field by field.

mod admission;
mod devices;
mod pod;
mod service;
mod workloads;

use serde_json::{Map, Value, json};

use crate::Kind;

pub use pod::qos_class;

/// Fills in the defaults of `object`, which is of `kind`.
pub fn apply(kind: &Kind, object: &mut Value) {
    (kind.strategy.defaults)(object);
    match (kind.group, kind.plural()) {
        ("", "pods") => pod::pod(object),
        ("", "podtemplates") => template(object.get_mut("template")),
        ("", "services") => service::service(object),
        ("", "secrets") => {
            if let Some(secret) = object.as_object_mut() {
                default_text(secret, "type", "Opaque");
            }
        }
        ("", "endpoints") => endpoints(object),
        ("", "namespaces") => namespace(object),
        ("", "persistentvolumes") => persistent_volume(object),
        ("", "persistentvolumeclaims") => claim(object),
        ("", "replicationcontrollers") => workloads::replication_controller(object),
        ("", "limitranges") => limit_range(object),
        ("apps", _) => workloads::apps(kind.plural(), object),
        ("batch", _) => workloads::batch(kind.plural(), object),
        ("autoscaling", _) => workloads::autoscaler(kind.version, object),
        ("storage.k8s.io", "storageclasses") => {
            let class = object.as_object_mut();
            if let Some(class) = class {
                default(class, "reclaimPolicy", || json!("Delete"));
                default(class, "volumeBindingMode", || json!("Immediate"));
            }
        }
        ("storage.k8s.io", "csidrivers") => csi_driver(object),
        ("networking.k8s.io", "networkpolicies") => network_policy(object),
        ("networking.k8s.io", "ingressclasses") => {
            if let Some(parameters) = spec(object).and_then(|spec| child(spec, "parameters")) {
                default(parameters, "scope", || json!("Cluster"));
            }
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("scheduling.k8s.io", "priorityclasses") => {
            set(object.as_object_mut(), "preemptionPolicy", json!("PreemptLowerPriority"));
        }
        ("discovery.k8s.io", "endpointslices") => endpoint_slice(object),
        ("resource.k8s.io", plural) => devices::devices(plural, object),
        ("flowcontrol.apiserver.k8s.io", plural) => flow(plural, object),
        ("policy", _) => set(object.as_object_mut(), "status", json!({})),
        ("networking.k8s.io", "ingresses") => set(object.as_object_mut(), "status", json!({"loadBalancer": {}})),
        ("apiregistration.k8s.io", _) => {
            if let Some(service) = spec(object).and_then(|spec| child(spec, "service")) {
                default(service, "port", || json!(443));
            }
        }
        ("admissionregistration.k8s.io", _) => admission::admission(kind.plural(), object),
        _ => {}
    }
}

/// Sets `key` unless it is there.
fn default(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.into(), value());
    }
}

/// Sets `key` unless there is a text: for fields that are plain texts in Go, where "" is what isn't said.
fn default_text(map: &mut Map<String, Value>, key: &str, value: &str) {
    if map.get(key).is_none_or(|v| v.is_null() || v == "") {
        map.insert(key.into(), value.into());
    }
}

/// Sets `key` unless there is a number other than 0: for fields that are plain numbers in Go.
fn default_number(map: &mut Map<String, Value>, key: &str, value: i64) {
    if map.get(key).is_none_or(|v| v.is_null() || *v == 0) {
        map.insert(key.into(), value.into());
    }
}

/// Sets `key` unless there is something in it.
fn default_list(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(|v| v.as_array().is_none_or(Vec::is_empty)) {
        map.insert(key.into(), value());
    }
}

fn set(map: Option<&mut Map<String, Value>>, key: &str, value: Value) {
    if let Some(map) = map {
        default(map, key, || value);
    }
}

/// The object at `key`, if there is one.
fn child<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(key)?.as_object_mut()
}

/// The objects of the list at `key`.
fn items<'a>(map: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    default(map, "spec", || json!({}));
    child(map, "spec")
}

/// A pod template's `spec` gets a pod's defaults.
fn template(template: Option<&mut Value>) {
    let Some(map) = template.and_then(Value::as_object_mut) else { return };
    default(map, "metadata", || json!({}));
    if let Some(spec) = child(map, "spec") {
        pod::spec(spec);
    }
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_string();
    let Some(map) = object.as_object_mut() else { return };
    default(map, "spec", || json!({}));
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Active");
    }
    if let Some(meta) = child(map, "metadata") {
        default(meta, "labels", || json!({}));
        if let Some(labels) = child(meta, "labels") {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
}

fn persistent_volume(object: &mut Value) {
    if let Some(spec) = spec(object) {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", || json!("Filesystem"));
        if let Some(path) = child(spec, "hostPath") {
            default(path, "type", || json!(""));
        }
        pod::foreign_volume(spec);
    }
    let Some(map) = object.as_object_mut() else { return };
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Pending");
    }
}

fn claim(object: &mut Value) {
    if let Some(spec) = spec(object) {
        claim_spec(spec);
        data_source(spec);
    }
    let Some(map) = object.as_object_mut() else { return };
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Pending");
    }
}

fn claim_spec(spec: &mut Map<String, Value>) {
    default(spec, "volumeMode", || json!("Filesystem"));
}

/// The old name and the new one of what a claim begins with say the same (KEP-1495), unless it is in another namespace.
fn data_source(spec: &mut Map<String, Value>) {
    let of = |spec: &Map<String, Value>, key: &str| spec.get(key).filter(|v| !v.is_null()).cloned();
    match (of(spec, "dataSource"), of(spec, "dataSourceRef")) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".into(), source)),
        (None, Some(source)) if source.get("namespace").is_none_or(Value::is_null) => {
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

fn limit_range(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    for limit in items(spec, "limits") {
        if limit.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        // A container's default limit is the maximum, its default request the default limit, else the minimum.
        if let Some(max) = limit.get("max").cloned() {
            default(limit, "default", || json!({}));
            fill(limit, "default", &max);
        }
        let from = limit.get("default").cloned();
        default(limit, "defaultRequest", || json!({}));
        if let Some(from) = from {
            fill(limit, "defaultRequest", &from);
        }
        if let Some(min) = limit.get("min").cloned() {
            fill(limit, "defaultRequest", &min);
        }
        if limit.get("defaultRequest") == Some(&json!({})) {
            limit.remove("defaultRequest");
        }
    }
}

fn fill(map: &mut Map<String, Value>, key: &str, from: &Value) {
    let Some(target) = child(map, key) else { return };
    for (k, v) in from.as_object().into_iter().flatten() {
        default(target, k, || v.clone());
    }
}

fn csi_driver(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "attachRequired", || json!(true));
    default(spec, "podInfoOnMount", || json!(false));
    default(spec, "storageCapacity", || json!(false));
    default(spec, "fsGroupPolicy", || json!("ReadWriteOnceWithFSType"));
    default_list(spec, "volumeLifecycleModes", || json!(["Persistent"]));
    default(spec, "requiresRepublish", || json!(false));
    default(spec, "seLinuxMount", || json!(false));
}

fn network_policy(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "podSelector", || json!({}));
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    default_list(spec, "policyTypes", || if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                default(port, "protocol", || json!("TCP"));
            }
        }
    }
}

fn binding(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(role) = child(map, "roleRef") {
        default_text(role, "apiGroup", "rbac.authorization.k8s.io");
    }
    for subject in items(map, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            default_text(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for port in items(map, "ports") {
        default(port, "name", || json!(""));
        default(port, "protocol", || json!("TCP"));
    }
}

fn flow(plural: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    if plural == "flowschemas" {
        return default_number(spec, "matchingPrecedence", 1000);
    }
    if spec.get("type") == Some(&json!("Exempt")) {
        default(spec, "exempt", || json!({}));
        if let Some(exempt) = child(spec, "exempt") {
            default(exempt, "nominalConcurrencyShares", || json!(0));
            default(exempt, "lendablePercent", || json!(0));
        }
    }
    let Some(limited) = child(spec, "limited") else { return };
    default(limited, "nominalConcurrencyShares", || json!(30));
    default(limited, "lendablePercent", || json!(0));
    if let Some(queuing) = child(limited, "limitResponse").and_then(|r| child(r, "queuing")) {
        default_number(queuing, "queues", 64);
        default_number(queuing, "handSize", 8);
        default_number(queuing, "queueLengthLimit", 50);
    }
}

fn endpoints(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for subset in items(map, "subsets") {
        for port in items(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}
