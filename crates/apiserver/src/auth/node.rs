//! The Node authorizer: a kubelet (`system:node:NAME`) reaches its own node and what its own pods refer to, nothing of
//! others (upstream's "Using Node Authorization").

use std::sync::Arc;

use api::kinds;
use apimachinery::{FieldSelector, ObjectExt as _};
use gateway::World;
use gateway::kinds::{GROUP, Gateway, GatewayClass};
use serde_json::Value;

use super::{Attributes, User};
use crate::ApiServer;
use crate::object::Filter;

pub fn allows(server: &ApiServer, user: &User, a: &Attributes<'_>) -> bool {
    let Some(node) = user.name.strip_prefix("system:node:") else { return false };
    let read = matches!(a.verb, "get" | "list" | "watch");
    match (a.group, a.resource) {
        ("", "nodes") => read || a.verb == "create" || (a.name == node && matches!(a.verb, "update" | "patch")),
        ("", "nodes/status") => a.name == node && matches!(a.verb, "update" | "patch"),
        ("", "pods") if read => true,
        ("", "pods") if a.verb == "delete" => is_on(server, a, node),
        // Mirrors of its own static pods, which admission sees to.
        ("", "pods") if a.verb == "create" => true,
        ("", "pods/status") => matches!(a.verb, "update" | "patch") && is_on(server, a, node),
        ("", "services" | "endpoints" | "namespaces") | ("discovery.k8s.io", "endpointslices") => read,
        ("networking.k8s.io", "networkpolicies" | "ingresses" | "ingressclasses") => read,
        ("gateway.networking.k8s.io", "gatewayclasses" | "gateways" | "httproutes" | "referencegrants") => read,
        ("", "events") => matches!(a.verb, "create" | "patch" | "update"),
        ("", "secrets" | "configmaps" | "persistentvolumeclaims") => {
            read && !a.name.is_empty() && refers(server, node, a)
        }
        ("", "persistentvolumeclaims/status") => a.verb == "patch" && refers_to_claim(server, node, a),
        ("storage.k8s.io", "volumeattachments") => read && is_attached_to(server, a, node),
        ("snapshot.storage.k8s.io", "volumesnapshotcontents") if read => true,
        ("snapshot.storage.k8s.io", "volumesnapshotcontents" | "volumesnapshotcontents/status") => {
            a.verb == "patch" && is_snapshot_of(server, a, node)
        }
        ("", "persistentvolumes") => read || (a.verb == "patch" && is_local(server, a, node)),
        ("", "serviceaccounts/token") => a.verb == "create" && uses_account(server, node, a),
        ("coordination.k8s.io", "leases") => a.namespace == "kube-node-lease" && (a.verb == "create" || a.name == node),
        ("certificates.k8s.io", "certificatesigningrequests") => a.verb == "create" || read,
        ("node.k8s.io", "runtimeclasses") | ("storage.k8s.io", "csidrivers" | "storageclasses") => read,
        ("storage.k8s.io", "csinodes") => a.verb == "create" || a.name == node,
        ("authentication.k8s.io", "tokenreviews") | ("authorization.k8s.io", "subjectaccessreviews") => {
            a.verb == "create"
        }
        _ => false,
    }
}

fn is_on(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let pods = server.cache.of(kinds::PODS);
    let key = crate::cache::object_key(a.namespace, a.name);
    pods.get(&key).is_none_or(|pod| pod.field(pods.kind, "spec.nodeName") == node)
}

/// Whether a volume is a folder of this node, which has to remove it.
fn is_local(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let volume = server.cache.of(kinds::PERSISTENT_VOLUMES).get(a.name);
    volume.is_some_and(|v| v.parse().at(&["metadata", "annotations", "timonel.io/node"]) == node)
}

fn is_attached_to(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let attachment = server.cache.of(kinds::VOLUME_ATTACHMENTS).get(a.name);
    // Of one that isn't there yet, its node may wait for it.
    !a.name.is_empty() && attachment.is_none_or(|v| v.parse().at(&["spec", "nodeName"]) == node)
}

/// Whether a snapshot is a folder of this node.
fn is_snapshot_of(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let contents = server.cache.find("volumesnapshotcontents.snapshot.storage.k8s.io");
    let content = contents.and_then(|c| c.get(a.name));
    content.is_some_and(|c| c.parse().at(&["metadata", "labels", "timonel.io/node"]) == node)
}

fn refers_to_claim(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    refers(server, node, &Attributes { resource: "persistentvolumeclaims", ..*a })
}

/// Whether a driver's volume that pods of the node use needs a secret.
fn volume_needs(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    const REFERENCES: [&str; 3] = ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    let volumes = server.cache.of(kinds::PERSISTENT_VOLUMES).list(&Filter::default()).0;
    volumes.iter().map(|v| v.parse()).any(|volume| {
        let csi = &volume["spec"]["csi"];
        let named = |key: &&str| csi[*key]["name"] == a.name && csi[key]["namespace"] == a.namespace;
        let claim = &volume["spec"]["claimRef"];
        let (namespace, name) = (claim["namespace"].as_str().unwrap_or(""), claim["name"].as_str().unwrap_or(""));
        let claim = Attributes { namespace, name, ..*a };
        REFERENCES.iter().any(named) && refers_to_claim(server, node, &claim)
    })
}

/// The pods of `node` in the namespace of `a`.
fn pods_of(server: &ApiServer, node: &str, a: &Attributes<'_>) -> Vec<Value> {
    let fields = FieldSelector { terms: vec![("spec.nodeName".into(), node.into(), true)] };
    let filter = Filter { namespace: a.namespace.into(), fields, ..Filter::default() };
    server.cache.of(kinds::PODS).list(&filter).0.iter().map(|e| e.parse()).collect()
}

fn uses_account(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    pods_of(server, node, a).iter().any(|pod| pod.str_at(&["spec", "serviceAccountName"]) == a.name)
}

/// Whether a pod of the node names the object anywhere in its spec where such a name may stand.
fn refers(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    // The root CA bundle is projected into every pod, and the cluster's settings are for all nodes.
    let settings = a.namespace == "kube-system" && matches!(a.name, "timonel-cluster" | "kube-dns");
    if a.resource == "configmaps" && (a.name == "kube-root-ca.crt" || settings) {
        return true;
    }
    // Every node serves Ingresses and Gateways, so every node needs their certificates.
    if a.resource == "secrets" && (is_certificate(server, a) || is_certificate_of_gateway(server, a)) {
        return true;
    }
    let by_pod = pods_of(server, node, a).iter().any(|pod| {
        pod_refers(&pod["spec"], a.resource, a.name) || (a.resource == "persistentvolumeclaims" && owns(pod, a.name))
    });
    // Only now, as it looks at all volumes.
    by_pod || (a.resource == "secrets" && volume_needs(server, node, a))
}

/// Whether a claim is that of an ephemeral volume of a pod.
fn owns(pod: &Value, claim: &str) -> bool {
    let own = |volume: &&Value| !volume["ephemeral"].is_null();
    let mut volumes = pod.array_at(&["spec", "volumes"]).iter().filter(own);
    volumes.any(|volume| claim == format!("{}-{}", pod.name(), volume.str_at(&["name"])))
}

fn is_certificate(server: &ApiServer, a: &Attributes<'_>) -> bool {
    let filter = Filter { namespace: a.namespace.into(), ..Filter::default() };
    let ingresses = server.cache.of(kinds::INGRESSES).list(&filter).0;
    let names = |ingress: &Value| ingress.array_at(&["spec", "tls"]).iter().any(|t| t["secretName"] == a.name);
    ingresses.iter().any(|entry| names(&entry.parse()))
}

fn is_certificate_of_gateway(server: &ApiServer, a: &Attributes<'_>) -> bool {
    fn all<K: serde::de::DeserializeOwned>(server: &ApiServer, resource: &str) -> Vec<Arc<K>> {
        let cache = server.cache.find(&format!("{resource}.{GROUP}"));
        let objects = cache.map(|cache| cache.list(&Filter::default()).0).unwrap_or_default();
        objects.iter().filter_map(|object| serde_json::from_value(object.parse()).ok().map(Arc::new)).collect()
    }
    let (classes, grants) = (all::<GatewayClass>(server, "gatewayclasses"), all(server, "referencegrants"));
    let world = World::new(&classes, all(server, "gateways"), Vec::new(), grants, &[]);
    let named = |gateway: &Arc<Gateway>| {
        let mut references = gateway.spec.listeners.iter().flat_map(|l| &l.tls).flat_map(|tls| &tls.certificate_refs);
        references.any(|to| {
            world.certificate(gateway, to).is_ok_and(|(n, s)| (n.as_str(), s.as_str()) == (a.namespace, a.name))
        })
    };
    world.gateways.iter().any(named)
}

fn pod_refers(spec: &Value, resource: &str, name: &str) -> bool {
    let keys: &[(&str, &str)] = match resource {
        "secrets" => &[
            ("secret", "secretName"),
            ("secret", "name"),
            ("secretRef", "name"),
            ("secretKeyRef", "name"),
            ("nodePublishSecretRef", "name"),
        ],
        "configmaps" => &[("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")],
        _ => &[("persistentVolumeClaim", "claimName")],
    };
    if resource == "secrets" && spec.array_at(&["imagePullSecrets"]).iter().any(|s| s["name"] == name) {
        return true;
    }
    mentions(spec, keys, name)
}

fn mentions(value: &Value, keys: &[(&str, &str)], name: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            keys.iter().any(|(outer, field)| key == outer && inner.get(field).is_some_and(|v| v == name))
                || mentions(inner, keys, name)
        }),
        Value::Array(list) => list.iter().any(|v| mentions(v, keys, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let spec = json!({
            "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                        {"name": "w", "secret": {"secretName": "mounted"}},
                        {"name": "x", "persistentVolumeClaim": {"claimName": "claim"}}],
            "containers": [{"envFrom": [{"secretRef": {"name": "env"}}],
                            "env": [{"valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}],
            "imagePullSecrets": [{"name": "pull"}]
        });
        for name in ["projected", "mounted", "env", "pull"] {
            assert!(pod_refers(&spec, "secrets", name), "{name}");
        }
        assert!(pod_refers(&spec, "configmaps", "cm"));
        assert!(pod_refers(&spec, "persistentvolumeclaims", "claim"));
        assert!(!pod_refers(&spec, "secrets", "claim"));
    }
}
