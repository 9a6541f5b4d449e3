//! Snapshots and the claims that they are taken of, or that are made of them: what is deleted waits for the other.

use std::sync::Arc;

use csi::local_path::{self, CONTENT_SOURCE_ANNOTATION, ContentSource};
use csi::snapshots::{BEING_DELETED_ANNOTATION, VolumeSnapshot, VolumeSnapshotContent};
use informer::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::super::binding::without;
use super::{BOUND, CLAIM_SOURCE, SOURCE, Snapshotter, waits};
use crate::toolkit::{Result, ignore};

/// A claim may go once no snapshot is being taken of it.
///
/// # Errors
/// The API refuses to remove the finalizer of a claim that is there.
pub(super) async fn unhold(of: &Snapshotter, snapshot: &VolumeSnapshot, claim: &str) -> Result {
    let namespace = snapshot.namespace().unwrap_or_default();
    let of_claim = |s: &Arc<VolumeSnapshot>| {
        s.spec.source.persistent_volume_claim_name.as_deref() == Some(claim)
            && s.uid() != snapshot.uid()
            && s.metadata.deletion_timestamp.is_none()
            && waits(s)
    };
    let present = of.claims.get(&Key::new(&namespace, claim));
    let Some(present) = present.filter(|c| c.finalizers().iter().any(|f| f == CLAIM_SOURCE)) else { return Ok(()) };
    if of.snapshots.list_in(&namespace).iter().any(of_claim) {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(of.context.client.clone(), &namespace);
    let patch = json!({"metadata": {"finalizers": without(present.finalizers(), CLAIM_SOURCE)}});
    ignore(api.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
}

/// Whether a claim that has no volume yet is to be made of a snapshot.
pub(super) fn is_of(claim: &PersistentVolumeClaim, snapshot: &str) -> bool {
    let spec = claim.spec.as_ref();
    let source = spec.and_then(|s| s.data_source.as_ref());
    source.is_some_and(|s| s.kind == "VolumeSnapshot" && s.name == snapshot)
        && spec.is_some_and(|s| s.volume_name.is_none())
}

/// Whether a volume is being made of a snapshot.
fn is_source(of: &Snapshotter, snapshot: &VolumeSnapshot, content: Option<&VolumeSnapshotContent>) -> bool {
    let namespace = snapshot.namespace().unwrap_or_default();
    let name = snapshot.name_any();
    let of_it = |claim: &Arc<PersistentVolumeClaim>| is_of(claim, &name) && claim.metadata.deletion_timestamp.is_none();
    let handle = content.and_then(|c| c.status.as_ref()?.snapshot_handle.clone());
    let fills = |volume: &Arc<PersistentVolume>| {
        let name = handle.as_deref().and_then(local_path::split_snapshot_handle).map(|(_, name)| name);
        name.is_some_and(|n| {
            volume.annotations().get(CONTENT_SOURCE_ANNOTATION) == Some(&ContentSource::Snapshot(n.into()).to_string())
        })
    };
    of.claims.list_in(&namespace).iter().any(of_it) || of.volumes.list().iter().any(fills)
}

/// A snapshot that is to be deleted goes once its content has gone, or is to stay.
///
/// # Errors
/// The API refuses a change or the deletion of the content, or to remove the finalizers of the snapshot.
pub(super) async fn release(
    of: &Snapshotter,
    snapshot: &VolumeSnapshot,
    content: Option<&VolumeSnapshotContent>,
) -> Result {
    if is_source(of, snapshot, content) {
        of.context.events.warning(snapshot, "SnapshotDeletePending", "Snapshot is being used to restore a PVC");
        return Ok(());
    }
    let own = content.filter(|c| {
        let uid = &c.spec.volume_snapshot_ref.uid;
        uid.is_some() && *uid == snapshot.metadata.uid
    });
    if let Some(content) = own.filter(|c| c.spec.deletion_policy == "Delete") {
        let api: Api<VolumeSnapshotContent> = Api::all(of.context.client.clone());
        let name = content.name_any();
        if !content.annotations().contains_key(BEING_DELETED_ANNOTATION) {
            let patch = json!({"metadata": {"annotations": {BEING_DELETED_ANNOTATION: "yes"}}});
            ignore(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
        }
        if content.metadata.deletion_timestamp.is_none() {
            ignore(api.delete(&name, &DeleteParams::default()).await, &[404])?;
        }
        return Ok(());
    }
    if let Some(claim) = &snapshot.spec.source.persistent_volume_claim_name {
        unhold(of, snapshot, claim).await?;
    }
    let left = without(&without(snapshot.finalizers(), BOUND), SOURCE);
    if left.len() == snapshot.finalizers().len() {
        return Ok(());
    }
    let api: Api<VolumeSnapshot> =
        Api::namespaced(of.context.client.clone(), &snapshot.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"finalizers": left}});
    ignore(api.patch(&snapshot.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
}
