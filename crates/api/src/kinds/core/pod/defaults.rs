//! Pods and what they hold.

use apimachinery::Quantity;
use serde_json::{Map, Value, json};

use super::amounts::container_amounts;
use crate::defaults::{child, default, default_number, default_text, items};
use crate::kinds::persistent_volume_claim;

pub fn pod(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(pod_spec) = child(map, "spec") {
        spec(pod_spec);
        of_pods_alone(pod_spec);
    }
    default(map, "status", || json!({}));
    let qos = qos_class(map.get("spec").unwrap_or(&Value::Null));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Pending");
        default(status, "qosClass", || json!(qos));
    }
}

/// Guaranteed, Burstable or BestEffort (`v1.PodQOSClass`).
pub fn qos_class(spec: &Value) -> &'static str {
    let quantity = |v: &Value| Quantity::from_json(v).map(Quantity::milli);
    let set = |v: &Value| !v.is_null() && quantity(v) != Some(0);
    let judge = |resources: &[&Value]| {
        let (mut any, mut guaranteed) = (false, true);
        for resources in resources {
            for resource in ["cpu", "memory"] {
                let (request, limit) = (&resources["requests"][resource], &resources["limits"][resource]);
                any |= set(request) || set(limit);
                guaranteed &= set(limit) && (request.is_null() || quantity(request) == quantity(limit));
            }
        }
        (any, guaranteed)
    };
    // What the pod says as a whole decides alone.
    let whole = judge(&[&spec["resources"]]);
    let lists = ["containers", "initContainers"].into_iter();
    let containers = lists.flat_map(|list| spec[list].as_array().into_iter().flatten()).map(|c| &c["resources"]);
    let (any, guaranteed) = if whole.0 { whole } else { judge(&containers.collect::<Vec<_>>()) };
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A pod's or a template's `spec`.
pub fn spec(spec: &mut Map<String, Value>) {
    default_text(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", || json!(30));
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", || json!({}));
    default_text(spec, "schedulerName", "default-scheduler");
    // The older name of the field is kept in step with the newer one, which wins.
    let said = |spec: &Map<String, Value>, key: &str| spec.get(key).filter(|v| !v.is_null() && *v != "").cloned();
    match said(spec, "serviceAccountName").or_else(|| said(spec, "serviceAccount")) {
        Some(account) => {
            spec.insert("serviceAccountName".into(), account.clone());
            spec.insert("serviceAccount".into(), account);
        }
        None => {
            spec.remove("serviceAccount");
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items(spec, list).for_each(container);
    }
    for volume in items(spec, "volumes") {
        default_volume(volume);
    }
}

/// What templates don't get.
fn of_pods_alone(spec: &mut Map<String, Value>) {
    default(spec, "enableServiceLinks", || json!(true));
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), json!(1));
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            if host_network {
                for port in items(container, "ports") {
                    if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
                        default_number(port, "hostPort", number);
                    }
                }
            }
            ask_for_limits(container);
        }
    }
    whole(spec);
}

/// A limit without a request asks for as much as it allows.
fn ask_for_limits(container: &mut Map<String, Value>) {
    let Some(resources) = child(container, "resources") else { return };
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    default(resources, "requests", || json!({}));
    if let Some(requests) = child(resources, "requests") {
        for (name, limit) in limits {
            default(requests, &name, || limit);
        }
    }
}

/// What a pod asks for as a whole where it says but a limit: what its containers ask for, or else the limit.
fn whole(spec: &mut Map<String, Value>) {
    let limits = spec.get("resources").and_then(|r| r["limits"].as_object()).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let asked = container_amounts(&json!(spec), "requests");
    if let Some(resources) = child(spec, "resources") {
        default(resources, "requests", || json!({}));
        if let Some(requests) = child(resources, "requests") {
            for (name, limit) in limits {
                default(requests, &name, || {
                    asked.get(&name).map_or(limit, |amount| json!(amount.canonical(name != "cpu")))
                });
            }
        }
    }
}

fn container(c: &mut Map<String, Value>) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or("").to_string();
    default_text(c, "imagePullPolicy", pull_policy(&image));
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default(c, "resources", || json!({}));
    for port in items(c, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for env in items(c, "env") {
        let Some(source) = child(env, "valueFrom") else { continue };
        if let Some(field) = child(source, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(file) = child(source, "fileKeyRef") {
            default(file, "optional", || json!(false));
        }
        if let Some(resource) = child(source, "resourceFieldRef") {
            default(resource, "divisor", || json!("0"));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = child(c, name) {
            probe(p);
        }
    }
    if let Some(lifecycle) = child(c, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = child(lifecycle, hook).and_then(|h| child(h, "httpGet")) {
                http_get(get);
            }
        }
    }
}

fn pull_policy(image: &str) -> &'static str {
    if is_latest(image) { "Always" } else { "IfNotPresent" }
}

/// Whether an image reference means "newest": no tag or `latest`, and no digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(p: &mut Map<String, Value>) {
    default_number(p, "timeoutSeconds", 1);
    default_number(p, "periodSeconds", 10);
    default_number(p, "successThreshold", 1);
    default_number(p, "failureThreshold", 3);
    if let Some(get) = child(p, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(p, "grpc") {
        default(grpc, "service", || json!(""));
    }
}

fn http_get(get: &mut Map<String, Value>) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

fn default_volume(volume: &mut Map<String, Value>) {
    let sources = ["name", "emptyDir"];
    if volume.keys().all(|k| sources.contains(&k.as_str())) {
        default(volume, "emptyDir", || json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, kind) {
            default(source, "defaultMode", || json!(0o644));
            for item in items(source, "items") {
                field_ref(item);
            }
            for projection in items(source, "sources") {
                if let Some(token) = child(projection, "serviceAccountToken") {
                    default(token, "expirationSeconds", || json!(3600));
                }
                if let Some(downward) = child(projection, "downwardAPI") {
                    for item in items(downward, "items") {
                        field_ref(item);
                    }
                }
            }
        }
    }
    if let Some(path) = child(volume, "hostPath") {
        default(path, "type", || json!(""));
    }
    if let Some(image) = child(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or("").to_string();
        default_text(image, "pullPolicy", pull_policy(&reference));
    }
    foreign_volume(volume);
    if let Some(claim) = child(volume, "ephemeral").and_then(|e| child(e, "volumeClaimTemplate"))
        && let Some(spec) = child(claim, "spec")
    {
        persistent_volume_claim::default_spec(spec);
    }
}

fn field_ref(item: &mut Map<String, Value>) {
    if let Some(field) = child(item, "fieldRef") {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = child(item, "resourceFieldRef") {
        default(resource, "divisor", || json!("0"));
    }
}

/// The older kinds of volumes, of pods and of PersistentVolumes.
pub fn foreign_volume(of: &mut Map<String, Value>) {
    if let Some(disk) = child(of, "iscsi") {
        default_text(disk, "iscsiInterface", "default");
    }
    if let Some(disk) = child(of, "rbd") {
        default_text(disk, "pool", "rbd");
        default_text(disk, "user", "admin");
        default_text(disk, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(of, "azureDisk") {
        default(disk, "cachingMode", || json!("ReadWrite"));
        default(disk, "fsType", || json!("ext4"));
        default(disk, "readOnly", || json!(false));
        default(disk, "kind", || json!("Shared"));
    }
    if let Some(disk) = child(of, "scaleIO") {
        default_text(disk, "storageMode", "ThinProvisioned");
        default_text(disk, "fsType", "xfs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_means_no_other_tag_and_no_digest() {
        for (image, want) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.25", false),
            ("reg:5000/nginx", true),
            ("reg:5000/nginx:1", false),
            ("nginx@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }

    #[test]
    fn what_a_pod_says_as_a_whole_comes_first() {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]);
        let mut pod = json!({"containers": containers, "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}});
        spec(pod.as_object_mut().unwrap());
        of_pods_alone(pod.as_object_mut().unwrap());
        assert_eq!(pod["resources"]["requests"], json!({"cpu": "100m", "memory": "64Mi"}));
        assert_eq!(qos_class(&pod), "Burstable");
        let both = json!({"cpu": "1", "memory": "64Mi"});
        let whole = json!({"containers": containers, "resources": {"requests": both, "limits": both}});
        assert_eq!(qos_class(&whole), "Guaranteed");
        let amounts = crate::kinds::quota::pod_amounts(&json!({"spec": whole}), "requests");
        assert_eq!(amounts["cpu"], "1".parse().unwrap());
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": both, "limits": both}))), "Guaranteed");
    }
}
