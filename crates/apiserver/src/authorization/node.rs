//! The Node authorizer: a kubelet (`system:node:NAME`) reaches its own node and what its own pods refer to, nothing of
//! others (upstream's "Using Node Authorization").

use std::sync::Arc;

use api::{Kind, kinds};
use apimachinery::{FieldSelector, ObjectExt as _};
use gateway::GatewaySnapshot;
use gateway::kinds::{GROUP, Gateway, GatewayClass};
use serde_json::Value;

use super::Attributes;
use crate::ApiServer;
use crate::authentication::User;
use crate::registry::Filter;

/// Whether a node may do what `a` says.
pub fn allows(server: &ApiServer, user: &User, a: &Attributes<'_>) -> bool {
    let Some(node) = user.name.strip_prefix("system:node:") else { return false };
    let read = matches!(a.verb, "get" | "list" | "watch");
    let (resource, sub) = a.resource.split_once('/').unwrap_or((a.resource, ""));
    let Some(kind) = api::KINDS.iter().find(|kind| kind.is_named(a.group, resource)) else {
        return allows_custom(server, a, node, read);
    };
    if !sub.is_empty() {
        return allows_subresource(server, a, node, (kind, sub));
    }
    if READ_BY_ALL.contains(&kind) {
        return read;
    }
    if kind == kinds::NODES {
        read || a.verb == "create" || (a.name == node && matches!(a.verb, "update" | "patch"))
    } else if kind == kinds::PODS {
        // The pods that it creates are mirrors of its static pods, which NodeRestriction checks.
        read || a.verb == "create" || (a.verb == "delete" && is_on(server, a, node))
    } else if kind == kinds::EVENTS {
        matches!(a.verb, "create" | "patch" | "update")
    } else if [kinds::SECRETS, kinds::CONFIG_MAPS, kinds::PERSISTENT_VOLUME_CLAIMS].contains(&kind) {
        read && !a.name.is_empty() && refers(server, node, kind, a)
    } else if kind == kinds::RESOURCE_CLAIMS {
        a.verb == "get" && !a.name.is_empty() && uses_resource_claim(server, node, a)
    } else if kind == kinds::RESOURCE_SLICES {
        // It deletes what drivers offered that have left it.
        a.verb == "list" || (matches!(a.verb, "get" | "delete") && is_slice_of(server, a, node))
    } else if kind == kinds::VOLUME_ATTACHMENTS {
        read && is_attached_to(server, a, node)
    } else if kind == kinds::PERSISTENT_VOLUMES {
        read || (a.verb == "patch" && is_local(server, a, node))
    } else if kind == kinds::LEASES {
        a.namespace == "kube-node-lease" && (a.verb == "create" || a.name == node)
    } else if kind == kinds::CERTIFICATE_SIGNING_REQUESTS {
        a.verb == "create" || read
    } else if kind == kinds::POD_CERTIFICATE_REQUESTS {
        // What it asks for is NodeRestriction's matter. Which are there is for the nodes that they are of: one by one, by name.
        a.verb == "create" || (read && is_requested_by(server, a, node))
    } else if kind == kinds::SERVICE_ACCOUNTS {
        a.verb == "get" && uses_account(server, node, a)
    } else if kind == kinds::CSI_NODES {
        a.verb == "create" || a.name == node
    } else if [kinds::TOKEN_REVIEWS, kinds::SUBJECT_ACCESS_REVIEWS].contains(&kind) {
        a.verb == "create"
    } else {
        false
    }
}

/// Kinds of which every node may read all objects.
const READ_BY_ALL: [&Kind; 11] = [
    kinds::CLUSTER_TRUST_BUNDLES,
    kinds::SERVICES,
    kinds::ENDPOINTS,
    kinds::NAMESPACES,
    kinds::ENDPOINT_SLICES,
    kinds::NETWORK_POLICIES,
    kinds::INGRESSES,
    kinds::INGRESS_CLASSES,
    kinds::RUNTIME_CLASSES,
    kinds::CSI_DRIVERS,
    kinds::STORAGE_CLASSES,
];

fn allows_subresource(server: &ApiServer, a: &Attributes<'_>, node: &str, (kind, sub): (&Kind, &str)) -> bool {
    let writes = matches!(a.verb, "update" | "patch");
    if kind == kinds::NODES {
        sub == "status" && a.name == node && writes
    } else if kind == kinds::PODS {
        sub == "status" && writes && is_on(server, a, node)
    } else if kind == kinds::PERSISTENT_VOLUME_CLAIMS {
        sub == "status" && a.verb == "patch" && refers_to_claim(server, node, a)
    } else if kind == kinds::SERVICE_ACCOUNTS {
        sub == "token" && a.verb == "create" && uses_account(server, node, a)
    } else {
        false
    }
}

/// Custom kinds that come with this server and that nodes need.
fn allows_custom(server: &ApiServer, a: &Attributes<'_>, node: &str, read: bool) -> bool {
    match (a.group, a.resource) {
        (GROUP, "gatewayclasses" | "gateways" | "httproutes" | "referencegrants") => read,
        ("snapshot.storage.k8s.io", "volumesnapshotcontents") if read => true,
        ("snapshot.storage.k8s.io", "volumesnapshotcontents" | "volumesnapshotcontents/status") => {
            a.verb == "patch" && is_snapshot_of(server, a, node)
        }
        _ => false,
    }
}

fn is_on(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let pods = server.cache.of(kinds::PODS);
    let key = crate::registry::object_key(a.namespace, a.name);
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

/// Whether a pod of the node uses a claim of devices, its own or one that was made for it.
fn uses_resource_claim(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    let names = |pod: &Value, path: &[&str]| {
        pod.array_at(path).iter().any(|entry| entry.str_at(&["resourceClaimName"]) == a.name)
    };
    let pods = pods_of(server, node, a);
    pods.iter().any(|pod| names(pod, &["spec", "resourceClaims"]) || names(pod, &["status", "resourceClaimStatuses"]))
}

fn is_slice_of(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let slice = server.cache.of(kinds::RESOURCE_SLICES).get(a.name);
    slice.is_some_and(|slice| slice.parse().str_at(&["spec", "nodeName"]) == node)
}

/// Whether a request of a certificate is this node's.
fn is_requested_by(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let requests = server.cache.of(kinds::POD_CERTIFICATE_REQUESTS);
    let request = requests.get(&crate::registry::object_key(a.namespace, a.name));
    !a.name.is_empty() && request.is_some_and(|r| r.field(requests.kind, "spec.nodeName") == node)
}

/// Whether a snapshot is a folder of this node.
fn is_snapshot_of(server: &ApiServer, a: &Attributes<'_>, node: &str) -> bool {
    let contents = server.cache.find("volumesnapshotcontents.snapshot.storage.k8s.io");
    let content = contents.and_then(|c| c.get(a.name));
    content.is_some_and(|c| c.parse().at(&["metadata", "labels", "timonel.io/node"]) == node)
}

fn refers_to_claim(server: &ApiServer, node: &str, a: &Attributes<'_>) -> bool {
    refers(server, node, kinds::PERSISTENT_VOLUME_CLAIMS, a)
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
fn refers(server: &ApiServer, node: &str, kind: &Kind, a: &Attributes<'_>) -> bool {
    // The root CA bundle is projected into every pod, and the cluster's settings are for all nodes.
    let settings = a.namespace == "kube-system" && matches!(a.name, "timonel-cluster" | "kube-dns");
    if kind == kinds::CONFIG_MAPS && (a.name == "kube-root-ca.crt" || settings) {
        return true;
    }
    // Every node serves Ingresses and Gateways, so every node needs their certificates.
    if kind == kinds::SECRETS && (is_certificate(server, a) || is_certificate_of_gateway(server, a)) {
        return true;
    }
    let by_pod = pods_of(server, node, a).iter().any(|pod| {
        pod_refers(&pod["spec"], kind, a.name) || (kind == kinds::PERSISTENT_VOLUME_CLAIMS && owns(pod, a.name))
    });
    // Only now, as it looks at all volumes.
    by_pod || (kind == kinds::SECRETS && volume_needs(server, node, a))
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
    let snapshot = GatewaySnapshot::new(&classes, all(server, "gateways"), Vec::new(), grants, &[]);
    let named = |gateway: &Arc<Gateway>| {
        let mut references = gateway.spec.listeners.iter().flat_map(|l| &l.tls).flat_map(|tls| &tls.certificate_refs);
        references.any(|to| {
            snapshot
                .certificate_secret(gateway, to)
                .is_ok_and(|(n, s)| (n.as_str(), s.as_str()) == (a.namespace, a.name))
        })
    };
    snapshot.gateways.iter().any(named)
}

fn pod_refers(spec: &Value, kind: &Kind, name: &str) -> bool {
    let keys: &[(&str, &str)] = if kind == kinds::SECRETS {
        &[
            ("secret", "secretName"),
            ("secret", "name"),
            ("secretRef", "name"),
            ("secretKeyRef", "name"),
            ("nodePublishSecretRef", "name"),
        ]
    } else if kind == kinds::CONFIG_MAPS {
        &[("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")]
    } else {
        &[("persistentVolumeClaim", "claimName")]
    };
    if kind == kinds::SECRETS && spec.array_at(&["imagePullSecrets"]).iter().any(|s| s["name"] == name) {
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
            assert!(pod_refers(&spec, kinds::SECRETS, name), "{name}");
        }
        assert!(pod_refers(&spec, kinds::CONFIG_MAPS, "cm"));
        assert!(pod_refers(&spec, kinds::PERSISTENT_VOLUME_CLAIMS, "claim"));
        assert!(!pod_refers(&spec, kinds::SECRETS, "claim"));
    }
}
