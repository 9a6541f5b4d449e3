//! The content that a snapshot gets: one that an administrator made, or one that a driver is asked for.

use std::sync::Arc;

use csi::local_path::{self, NODE_KEY, PROVISIONER};
use csi::snapshots::{CONTENT_FINALIZER, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use informer::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{CLAIM_SOURCE, IS_DEFAULT, Snapshotter};
use crate::toolkit::{Context, Result, ignore};

/// Makes sure that a content is the snapshot's, also one that an administrator made beforehand. The inner error is the user's.
///
/// # Errors
/// The API refuses the reference to the snapshot. (That the content is another snapshot's is the inner error.)
pub(super) async fn bind(
    context: &Context,
    snapshot: &VolumeSnapshot,
    content: &VolumeSnapshotContent,
) -> Result<Result<(), String>> {
    let of = &content.spec.volume_snapshot_ref;
    let name = content.name_any();
    if of.namespace != snapshot.namespace() || of.name.as_deref() != Some(&snapshot.name_any()) {
        return Ok(Err(format!("snapshot content {name} is for another snapshot")));
    }
    match &of.uid {
        Some(uid) if Some(uid) == snapshot.metadata.uid.as_ref() => Ok(Ok(())),
        Some(uid) if !uid.is_empty() => Ok(Err(format!("snapshot content {name} is for another snapshot"))),
        _ => {
            let api: Api<VolumeSnapshotContent> = Api::all(context.client.clone());
            let patch = json!({"spec": {"volumeSnapshotRef": {"uid": snapshot.uid()}}});
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(Ok(()))
        }
    }
}

/// Driver and handle of a volume, and the node if it is a folder there.
fn source(volume: &PersistentVolume) -> Option<(String, String, Option<String>)> {
    if let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) {
        return Some((csi.driver.clone(), csi.volume_handle.clone(), None));
    }
    let node = local_path::node_of(volume)?;
    Some((PROVISIONER.into(), volume.name_any(), Some(node.clone())))
}

/// Asks the driver of a claim's volume for a snapshot. The inner error is the user's.
///
/// # Errors
/// The API refuses the finalizer of the claim, or the content. (What is wrong with the claim or the class is the inner error.)
pub(super) async fn create(
    of: &Snapshotter,
    snapshot: &VolumeSnapshot,
    claim_name: &str,
    name: &str,
) -> Result<Result<(), String>> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let Some(claim) = of.claims.get(&Key::new(&namespace, claim_name)) else {
        return Ok(Err(format!("the claim {claim_name:?} isn't there")));
    };
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
    let Some(volume) = volume.and_then(|v| of.volumes.get(&Key::new("", &v))) else {
        return Ok(Err(format!("the claim {claim_name:?} isn't bound to a volume yet")));
    };
    let Some((driver, handle, node)) = source(&volume) else {
        return Ok(Err(format!(
            "volume {} belongs to no driver that takes snapshots: it must be of a CSI driver or of local-path",
            volume.name_any()
        )));
    };
    let class = match class(of, snapshot, &driver) {
        Ok(class) => class,
        Err(message) => return Ok(Err(message)),
    };
    if !claim.finalizers().iter().any(|f| f == CLAIM_SOURCE) {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(of.context.client.clone(), &namespace);
        let all: Vec<String> = claim.finalizers().iter().cloned().chain([CLAIM_SOURCE.into()]).collect();
        let patch = json!({"metadata": {"finalizers": all}});
        api.patch(claim_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    let mut annotations = json!({});
    let parameters = class.parameters.clone().unwrap_or_default();
    for part in ["name", "namespace"] {
        // Where the driver finds what it needs to delete the snapshot, also once the class is gone.
        if let Some(value) = parameters.get(&format!("csi.storage.k8s.io/snapshotter-secret-{part}")) {
            annotations[format!("snapshot.storage.kubernetes.io/deletion-secret-{part}")] = value.as_str().into();
        }
    }
    let content = json!({
        "metadata": {"name": name, "finalizers": [CONTENT_FINALIZER], "annotations": annotations,
                     "labels": node.map(|node| json!({NODE_KEY: node}))},
        "spec": {"driver": driver, "deletionPolicy": class.deletion_policy, "source": {"volumeHandle": handle},
                 "sourceVolumeMode": volume.spec.as_ref().and_then(|s| s.volume_mode.clone()),
                 "volumeSnapshotClassName": class.name_any(),
                 "volumeSnapshotRef": {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
                     "namespace": namespace, "name": snapshot.name_any(), "uid": snapshot.uid()}}});
    let content: VolumeSnapshotContent = serde_json::from_value(content).map_err(kube::Error::SerdeError)?;
    let api: Api<VolumeSnapshotContent> = Api::all(of.context.client.clone());
    ignore(api.create(&PostParams::default(), &content).await, &[409])?;
    let text = format!("Waiting for a snapshot {namespace}/{} to be created by the CSI driver.", snapshot.name_any());
    of.context.events.normal(snapshot, "CreatingSnapshot", text);
    Ok(Ok(()))
}

/// The class that a snapshot names, or the default one of the driver.
fn class(of: &Snapshotter, snapshot: &VolumeSnapshot, driver: &str) -> Result<Arc<VolumeSnapshotClass>, String> {
    if let Some(name) = snapshot.spec.volume_snapshot_class_name.as_deref().filter(|n| !n.is_empty()) {
        let class = of.classes.get(&Key::new("", name));
        let class = class.ok_or_else(|| format!("the VolumeSnapshotClass {name:?} isn't there"))?;
        if class.driver != driver {
            return Err(format!(
                "the VolumeSnapshotClass {name:?} is of driver {}, but the claim's volume of {driver}",
                class.driver
            ));
        }
        return Ok(class);
    }
    let is_default = |c: &Arc<VolumeSnapshotClass>| {
        c.driver == driver && c.annotations().get(IS_DEFAULT).map(String::as_str) == Some("true")
    };
    let mut defaults: Vec<_> = of.classes.list().into_iter().filter(is_default).collect();
    match (defaults.pop(), defaults.is_empty()) {
        (Some(class), true) => Ok(class),
        (None, _) => Err(format!("no VolumeSnapshotClass of driver {driver} is the default one: name one")),
        (Some(_), false) => {
            Err(format!("{} default classes of driver {driver} are there: name one", defaults.len() + 1))
        }
    }
}
