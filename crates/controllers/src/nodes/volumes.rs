//! Volumes that are on one node alone: when it is down, events of their claims say why pods wait.

use informer::Informer;
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume};
use kube::ResourceExt as _;

use crate::toolkit::Context;

/// Whether a volume can be used on this node and on none of the others.
fn lives_on(volume: &PersistentVolume, node: &Node, others: &[&Node]) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    affinity.is_some_and(|a| {
        placement::node_selector_matches(a, node)
            && !others.iter().any(|other| placement::node_selector_matches(a, other))
    })
}

/// Records an event of each claim whose volume can't be reached while `node` is as `how` says ("is down", "is gone").
pub fn record_unavailable(
    context: &Context,
    volumes: &Informer<PersistentVolume>,
    nodes: &Informer<Node>,
    node: &Node,
    how: &str,
) {
    let name = node.name_any();
    let nodes = nodes.list();
    let others: Vec<&Node> = nodes.iter().map(|n| &**n).filter(|n| n.name_any() != name).collect();
    for volume in volumes.list().iter().filter(|v| lives_on(v, node, &others)) {
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.clone()) else { continue };
        let of = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: claim.namespace,
            name: claim.name,
            uid: claim.uid,
            ..ObjectReference::default()
        };
        let text = format!("volume {} lives on node {name}, which {how}", volume.name_any());
        context.events.record(of, "Warning", "VolumeNodeUnavailable", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_lives_on_a_node_if_no_other_fits() {
        let node = |name: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
                .unwrap()
        };
        let volume = |names: &[&str]| -> PersistentVolume {
            let wanted =
                json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]});
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [wanted]}}}}))
                .unwrap()
        };
        let (a, b) = (node("a"), node("b"));
        assert!(lives_on(&volume(&["a"]), &a, &[&b]));
        assert!(!lives_on(&volume(&["b"]), &a, &[&b]));
        assert!(!lives_on(&volume(&["a", "b"]), &a, &[&b]));
        assert!(lives_on(&volume(&["a", "b"]), &a, &[]));
        assert!(!lives_on(&PersistentVolume::default(), &a, &[]));
    }
}
