//! Volumes of CSI drivers are attached to the nodes that need them: a VolumeAttachment says so, and the driver's own attacher does it.
//! Drivers that say `attachRequired: false` have none.

use std::collections::BTreeSet;
use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::binding::{claims_of, uses};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::nodes::{OUT_OF_SERVICE, is_ready};
use crate::toolkit::{Context, Result, ignore};

struct AttachDetachController {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    nodes: Informer<Node>,
}

/// Keys are those of volumes: each is attached where pods need it.
pub fn start(context: Context) {
    let attacher = AttachDetachController {
        context: context.clone(),
        pods: context.informers.of(),
        claims: context.informers.of(),
        volumes: context.informers.of(),
        drivers: context.informers.of(),
        attachments: context.informers.of(),
        nodes: context.informers.of(),
    };
    let mut controller = Controller::of_keys();
    let claims = attacher.claims.clone();
    controller.watch(&attacher.pods, move |change| {
        let pod = change.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let found = claims_of(pod).into_iter().filter_map(|claim| claims.get(&Key::new(namespace, &claim)));
        found.filter_map(|claim| Some(Key::new("", claim.spec.as_ref()?.volume_name.as_ref()?))).collect::<Vec<_>>()
    });
    controller.watch(&attacher.claims, |change| {
        change.object().spec.as_ref().and_then(|s| s.volume_name.as_ref()).map(|volume| Key::new("", volume))
    });
    controller.watch(&attacher.volumes, |change| {
        let volume = change.object();
        volume.spec.as_ref().is_some_and(|s| s.csi.is_some()).then(|| volume.key())
    });
    controller.watch(&attacher.attachments, |change| volume_key(change.object()));
    let attachments = attacher.attachments.clone();
    controller.watch(&attacher.nodes, move |change| {
        let of = |node: &Node| (node.status.as_ref().and_then(|s| s.volumes_in_use.clone()), is_ready(node));
        if let Change::Applied { old: Some(old), new } = change
            && of(old) == of(new)
        {
            return Vec::new();
        }
        let name = change.object().name_any();
        let of_node = attachments.list().into_iter().filter(|a| a.spec.node_name == name);
        of_node.filter_map(|attachment| volume_key(&attachment)).collect()
    });
    controller.needs(&attacher.drivers);
    controller.run("attach", 2, attacher);
}

/// The key of the volume that an attachment is of.
fn volume_key(attachment: &VolumeAttachment) -> Option<Key> {
    attachment.spec.source.persistent_volume_name.as_ref().map(|volume| Key::new("", volume))
}

/// How long a node that isn't ready may keep what it says it uses: then it is taken for dead, as upstream takes it.
const MAX_DETACH_WAIT: SignedDuration = SignedDuration::from_mins(6);

/// When an attachment that no pod needs any more may go.
#[derive(Debug, PartialEq, Eq)]
enum Detach {
    Now,
    /// The node says that it uses the volume: its next word decides.
    Wait,
    /// It is silent; then it counts as dead.
    After(Duration),
}

/// A volume that a node has mounted still must not be taken from it.
fn detach(node: Option<&Node>, volume: &str, now: Timestamp) -> Detach {
    let Some(node) = node else { return Detach::Now };
    let used = node.status.as_ref().and_then(|s| s.volumes_in_use.as_ref());
    if !used.into_iter().flatten().any(|v| v == volume) {
        return Detach::Now;
    }
    if is_ready(node) {
        return Detach::Wait;
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    if taints.into_iter().flatten().any(|t| t.key == OUT_OF_SERVICE) {
        return Detach::Now;
    }
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let since =
        conditions.into_iter().flatten().find(|c| c.type_ == "Ready").and_then(|c| c.last_transition_time.as_ref());
    let left = since.map(|since| MAX_DETACH_WAIT - now.duration_since(since.0)).unwrap_or_default();
    if left <= SignedDuration::ZERO { Detach::Now } else { Detach::After(left.unsigned_abs()) }
}

/// Whether several nodes may have a volume at a time.
fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    modes.into_iter().flatten().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

impl Reconcile for AttachDetachController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let volume = self.volumes.get(key);
        let attachable = volume.as_ref().and_then(|v| self.attachable(v));
        let wanted = match (&volume, &attachable) {
            (Some(volume), Some(_)) => self.nodes(volume),
            _ => BTreeSet::new(),
        };
        let api: Api<VolumeAttachment> = Api::all(self.context.client.clone());
        let of = |a: &VolumeAttachment| a.spec.source.persistent_volume_name.as_deref() == Some(&key.name);
        let present: Vec<_> = self.attachments.list().into_iter().filter(|a| of(a)).collect();
        let mut again = None;
        for attachment in &present {
            if wanted.contains(&attachment.spec.node_name) || attachment.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let unique = attachable.as_ref().map(|(driver, handle)| csi::unique_volume_name(driver, handle));
            let node = self.nodes.get(&Key::new("", &attachment.spec.node_name));
            match detach(node.as_deref(), &unique.unwrap_or_default(), apimachinery::clock::now()) {
                Detach::Now => ignore(api.delete(&attachment.name_any(), &DeleteParams::default()).await, &[404])?,
                Detach::Wait => {}
                Detach::After(wait) => again = Some(wait),
            }
        }
        let (Some((driver, handle)), Some(volume)) = (attachable, volume) else { return Ok(again) };
        for node in wanted.iter().filter(|node| !present.iter().any(|a| a.spec.node_name == **node)) {
            // What one node alone may write isn't given to a second one before the first has let it go.
            let other = present.iter().find(|a| a.spec.node_name != *node);
            if let Some(other) = other.filter(|_| !is_shared(&volume)) {
                self.record_multi_attach(&volume, node, &other.spec.node_name);
                continue;
            }
            let attachment = json!({"metadata": {"name": csi::attachment_name(&handle, &driver, node)},
            "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": key.name}}});
            let attachment: VolumeAttachment = serde_json::from_value(attachment).map_err(kube::Error::SerdeError)?;
            ignore(api.create(&PostParams::default(), &attachment).await, &[409])?;
            if !is_shared(&volume) {
                break;
            }
        }
        Ok(again)
    }
}

impl AttachDetachController {
    /// Driver and handle of a volume that a driver's attacher attaches.
    fn attachable(&self, volume: &PersistentVolume) -> Option<(String, String)> {
        let source = volume.spec.as_ref()?.csi.as_ref()?;
        let driver = self.drivers.get(&Key::new("", &source.driver));
        let required = driver.is_none_or(|d| d.spec.attach_required != Some(false));
        required.then(|| (source.driver.clone(), source.volume_handle.clone()))
    }

    /// The nodes whose pods need a volume.
    fn nodes(&self, volume: &PersistentVolume) -> BTreeSet<String> {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let Some((namespace, claim)) = reference.and_then(|r| Some((r.namespace.clone()?, r.name.clone()?))) else {
            return BTreeSet::new();
        };
        let of = self.pods.list_in(&namespace).into_iter().filter(|p| uses(p, &claim));
        of.filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect()
    }

    fn record_multi_attach(&self, volume: &PersistentVolume, node: &str, other: &str) {
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return };
        let claim_name = claim.name.as_deref().unwrap_or("");
        let text = format!(
            "Multi-Attach error for volume \"{}\" Volume is already exclusively attached to node {other} and can't be attached to another",
            volume.name_any()
        );
        for pod in self.pods.list_in(claim.namespace.as_deref().unwrap_or("")) {
            let here = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
            if here && uses(&pod, claim_name) {
                self.context.events.warning(pod.as_ref(), "FailedAttachVolume", text.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_uses_is_left_to_it_while_it_lives() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let node = |ready: &str, since: &str, taint: &str| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"volumesInUse": ["kubernetes.io/csi/d^h"],
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}),
            )
            .unwrap()
        };
        let at = |node: Option<&Node>, volume: &str| detach(node, volume, now);
        let used = "kubernetes.io/csi/d^h";
        let well = node("True", "2026-01-01T00:00:00Z", "x");
        assert_eq!(at(Some(&well), used), Detach::Wait);
        assert_eq!(at(Some(&well), "kubernetes.io/csi/d^other"), Detach::Now);
        assert_eq!(at(None, used), Detach::Now);
        let silent = node("Unknown", "2026-01-01T00:09:00Z", "x");
        assert_eq!(at(Some(&silent), used), Detach::After(Duration::from_secs(300)));
        assert_eq!(at(Some(&node("Unknown", "2026-01-01T00:03:00Z", "x")), used), Detach::Now);
        assert_eq!(at(Some(&node("Unknown", "2026-01-01T00:09:00Z", OUT_OF_SERVICE)), used), Detach::Now);
    }
}
