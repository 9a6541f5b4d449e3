//! NodeRestriction: what a kubelet may change of the objects that the Node authorizer lets it write.

use apimachinery::{ObjectExt as _, Status};
use serde_json::{Map, Value};

use api::{Kind, Subresource, kinds, static_pods};

use super::super::{AdmissionAttributes, Operation};
use crate::authentication::{NODES, Named, User};

/// The extra of the user that the server's own kubelet is; it may label its node as one of the control plane.
pub const SERVER: &str = "timonel.io/server";

/// Labels of the `kubernetes.io` and `k8s.io` domains that a kubelet may give itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Restricts writes of nodes; other users aren't restricted here.
///
/// # Errors
/// 403 for what isn't the node's to write.
pub fn check(attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = attributes.user.name.strip_prefix("system:node:").filter(|_| attributes.user.is_in(NODES)) else {
        return Ok(());
    };
    let kind = attributes.kind;
    let refuse = |why: String| Err(kind.forbidden(object.name(), &why));
    if kind == kinds::NODES {
        if object.name() != node {
            return refuse(format!("node {node:?} is not allowed to modify node {:?}", object.name()));
        }
        let labels = forbidden_labels(attributes.user, object, attributes.old);
        if !labels.is_empty() {
            return refuse(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")));
        }
        if attributes.old.is_some_and(|old| old["spec"]["taints"] != object["spec"]["taints"]) {
            return refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        // An object whose owner is gone is deleted: a node could get rid of its taints and labels by it (CVE-2025-5187).
        let owners = |of: &Value| of["metadata"]["ownerReferences"].clone();
        if attributes.old.is_some_and(|old| owners(old) != owners(object)) {
            return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    } else if kind == kinds::PODS && attributes.subresource.is_none() && attributes.operation == Operation::Create {
        if !static_pods::is_mirror(object) {
            return refuse(format!(
                "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
                static_pods::MIRROR
            ));
        }
        if object.at(&["spec", "nodeName"]) != node {
            return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owners = object.array_at(&["metadata", "ownerReferences"]);
        let own = |owner: &Value| owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
        if owners.len() != 1 || !owners.iter().all(own) {
            return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
    } else if kind == kinds::PODS && attributes.subresource == Some(Subresource::Status) {
        // By its labels a pod gets the traffic of a service, and is let in by policies.
        if attributes.old.is_some_and(|old| old["metadata"]["labels"] != object["metadata"]["labels"]) {
            return refuse(format!("node {node:?} cannot update labels through pod status"));
        }
    } else if kind == kinds::PERSISTENT_VOLUME_CLAIMS && attributes.subresource == Some(Subresource::Status) {
        if attributes.old.is_some_and(|old| settled(old) != settled(object)) {
            return refuse(format!(
                "node {node:?} may not update fields other than status.capacity and status.conditions"
            ));
        }
    } else if kind == kinds::CSI_NODES && object.name() != node {
        return refuse(format!("can only access CSINode with the same name as the requesting node: {node:?}"));
    } else if kind == kinds::LEASES && object.name() != node {
        return refuse(format!("node {node:?} may only have its own lease"));
    }
    Ok(())
}

/// A claim without what a kubelet has to say of it (the expansion of its volume), and without what every write changes.
fn settled(claim: &Value) -> Value {
    let mut claim = claim.clone();
    let parts = [
        ("metadata", ["resourceVersion", "managedFields"].as_slice()),
        ("status", ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"].as_slice()),
    ];
    for (part, fields) in parts {
        if let Some(map) = claim.get_mut(part).and_then(Value::as_object_mut) {
            map.retain(|key, _| !fields.contains(&key.as_str()));
        }
    }
    // A status of which nothing is left is none.
    if claim["status"].as_object().is_some_and(Map::is_empty)
        && let Some(map) = claim.as_object_mut()
    {
        map.remove("status");
    }
    claim
}

/// A kubelet may ask for tokens of its own pods alone; `node` is that of the pod that the token is bound to.
///
/// # Errors
/// 403 for a token that is bound to no pod, or to one of another node.
pub fn restrict_token(user: &User, kind: &Kind, name: &str, node: Option<&Named>) -> Result<(), Status> {
    let Some(own) = user.name.strip_prefix("system:node:").filter(|_| user.is_in(NODES)) else { return Ok(()) };
    let refuse = |why: &str| Err(kind.forbidden(name, why));
    match node {
        None => refuse("node requested token not bound to a pod"),
        Some(node) if node.name != own => refuse("node requested token bound to a pod scheduled on a different node"),
        Some(_) => Ok(()),
    }
}

/// The labels that are set, changed or taken away and not the kubelet's to decide.
fn forbidden_labels(user: &User, object: &Value, old: Option<&Value>) -> Vec<String> {
    let none = Map::new();
    let labels = |of: Option<&Value>| of.and_then(|o| o["metadata"]["labels"].as_object()).cloned();
    let (new, old) = (labels(Some(object)).unwrap_or_default(), labels(old).unwrap_or(none));
    let changed = new.iter().chain(&old).map(|(key, _)| key).filter(|key| new.get(*key) != old.get(*key));
    let server = user.extra.iter().any(|(key, _)| key == SERVER);
    let mut all: Vec<String> = changed
        .filter(|key| !(is_own(key) || server && *key == "node-role.kubernetes.io/control-plane"))
        .cloned()
        .collect();
    all.sort();
    all.dedup();
    all
}

fn is_own(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let below = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || below("kubelet.kubernetes.io") || below("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_others_rely_on_are_not_the_kubelets() {
        for (label, own) in [
            ("rack", true),
            ("example.com/rack", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("x.kubelet.kubernetes.io/anything", true),
            ("topology.kubernetes.io/zone", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/tenant", false),
            ("x.node-restriction.kubernetes.io/tenant", false),
            ("kubernetes.io/other", false),
            ("notkubernetes.io/other", true),
        ] {
            assert_eq!(is_own(label), own, "{label}");
        }
    }
}
