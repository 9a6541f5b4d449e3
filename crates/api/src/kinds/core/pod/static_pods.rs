//! Static pods: those that a node has from a folder of its own, and their mirrors in the API.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

/// On a mirror: the identity of the static pod that it shows. What marks a pod as a mirror.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a static pod: its identity, which follows from its file.
pub const HASH: &str = "kubernetes.io/config.hash";
/// On a static pod: where it comes from.
pub const SOURCE: &str = "kubernetes.io/config.source";

/// Whether a pod of the API stands for one that its node has from elsewhere.
pub fn is_mirror(pod: &Value) -> bool {
    !pod.at(&["metadata", "annotations", MIRROR]).is_null()
}

/// A pod is a mirror from its beginning, and stays the mirror of the same pod.
pub fn keep_mirror(pod: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mirror = ["metadata", "annotations", MIRROR];
    if pod.at(&mirror) != old.at(&mirror) {
        let field = format!("metadata.annotations[{MIRROR}]");
        causes.push(Cause::forbidden(field, "may not add, remove or update mirror pod annotation"));
    }
}

/// What a static pod may not say, as it would need the API, which it may well be there to serve.
pub fn check(spec: &Value) -> Vec<Cause> {
    const OBJECTS: [&str; 4] = ["secret", "configMap", "persistentVolumeClaim", "ephemeral"];
    const PROJECTED: [&str; 4] = ["secret", "configMap", "serviceAccountToken", "clusterTrustBundle"];
    const SELECTED: [&str; 2] = ["secretKeyRef", "configMapKeyRef"];
    let mut causes = Vec::new();
    let mut forbid = |field: String| {
        causes.push(Cause::forbidden(&field, "static pods may not refer to objects of the API"));
    };
    for field in ["serviceAccountName", "imagePullSecrets", "resourceClaims"] {
        let value = &spec[field];
        if !value.is_null() && value != "" && value != &serde_json::json!([]) {
            forbid(format!("spec.{field}"));
        }
    }
    for (i, volume) in spec.array_at(&["volumes"]).iter().enumerate() {
        let at = format!("spec.volumes[{i}]");
        OBJECTS.iter().filter(|kind| !volume[**kind].is_null()).for_each(|kind| forbid(format!("{at}.{kind}")));
        if !volume["csi"]["nodePublishSecretRef"].is_null() {
            forbid(format!("{at}.csi.nodePublishSecretRef"));
        }
        for (j, source) in volume.array_at(&["projected", "sources"]).iter().enumerate() {
            let named = PROJECTED.iter().filter(|kind| !source[**kind].is_null());
            named.for_each(|kind| forbid(format!("{at}.projected.sources[{j}].{kind}")));
        }
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.array_at(&[list]).iter().enumerate() {
            for (j, variable) in container.array_at(&["env"]).iter().enumerate() {
                let named = SELECTED.iter().filter(|kind| !variable["valueFrom"][**kind].is_null());
                named.for_each(|kind| forbid(format!("spec.{list}[{i}].env[{j}].valueFrom.{kind}")));
            }
            if !container.array_at(&["envFrom"]).is_empty() {
                forbid(format!("spec.{list}[{i}].envFrom"));
            }
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_needs_the_api_is_found() {
        let spec = json!({"serviceAccountName": "x", "imagePullSecrets": [],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}},
                        {"name": "c", "projected": {"sources": [{"downwardAPI": {}}, {"configMap": {"name": "m"}}]}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]});
        let fields: Vec<String> = check(&spec).into_iter().map(|cause| cause.field).collect();
        assert_eq!(
            fields,
            [
                "spec.serviceAccountName",
                "spec.volumes[1].secret",
                "spec.volumes[2].projected.sources[1].configMap",
                "spec.containers[0].env[1].valueFrom.secretKeyRef",
                "spec.containers[0].envFrom"
            ]
        );
        assert!(check(&json!({"containers": [{"name": "c"}]})).is_empty());
    }
}
