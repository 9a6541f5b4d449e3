//! Snapshots of volumes (KEP-177): a VolumeSnapshot is what a user asks for, a VolumeSnapshotContent what a driver is to make of it,
//! and this brings the two together. Drivers' own sidecars make contents true; for volumes of `local-path` the node does.

mod content;
mod kinds;
mod release;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use csi::local_path::{self, NODE_KEY, PROVISIONER};
use csi::snapshots::{
    BEING_DELETED_ANNOTATION, CONTENT_FINALIZER, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent,
    VolumeSnapshotContentStatus, VolumeSnapshotError, VolumeSnapshotStatus,
};
use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::binding::without;
use content::{bind, create};
use release::{is_of, release, unhold};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

/// Held by a snapshot while it has a content, and while a claim is being made of it.
const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const SOURCE: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
/// Held by a claim while a snapshot is taken of it.
const CLAIM_SOURCE: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
const IS_DEFAULT: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// What the loop over snapshots and the one over their contents share.
struct Snapshotter {
    context: Context,
    snapshots: Informer<VolumeSnapshot>,
    contents: Informer<VolumeSnapshotContent>,
    classes: Informer<VolumeSnapshotClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Creates the kinds, and then runs the loops. Definitions that are there already stay as they are.
pub async fn run(context: Context, to_claims: Queue) {
    kinds::ensure(&context).await;
    let snapshotter = Snapshotter {
        snapshots: context.informers.of(),
        contents: context.informers.of(),
        classes: context.informers.of(),
        claims: context.informers.of(),
        volumes: context.informers.of(),
        context: context.clone(),
    };
    let snapshotter = Arc::new(snapshotter);
    let mut snapshots = Controller::of(&context, &snapshotter.snapshots);
    let mut contents = Controller::of(&context, &snapshotter.contents);
    // Claims may wait to be made of a snapshot.
    let claims = snapshotter.claims.clone();
    snapshotter.snapshots.enqueue_keys(&to_claims, move |change| {
        let snapshot = change.object();
        let of_it = |c: &&Arc<PersistentVolumeClaim>| is_of(c, &snapshot.name_any());
        let all = claims.list_in(&snapshot.namespace().unwrap_or_default());
        all.iter().filter(of_it).map(|claim| claim.key()).collect::<Vec<_>>()
    });
    snapshots.watch(&snapshotter.contents, |change| {
        let of = &change.object().spec.volume_snapshot_ref;
        Some(Key::new(of.namespace.as_deref().unwrap_or(""), of.name.as_deref().unwrap_or("")))
    });
    // Snapshots may wait for their claim to be bound, for a class, or for a claim that is made of them.
    let waiting = |snapshots: Vec<Arc<VolumeSnapshot>>| -> Vec<Key> {
        snapshots.iter().filter(|s| waits(s)).map(|s| s.key()).collect()
    };
    let all = snapshotter.snapshots.clone();
    snapshots.watch(&snapshotter.claims, move |change| {
        waiting(all.list_in(&change.object().namespace().unwrap_or_default()))
    });
    let all = snapshotter.snapshots.clone();
    snapshots.watch(&snapshotter.classes, move |_| waiting(all.list()));
    let all = snapshotter.snapshots.clone();
    snapshots.watch(&snapshotter.volumes, move |_| waiting(all.list()));
    contents.needs(&snapshotter.snapshots);
    contents.needs(&snapshotter.volumes);
    snapshots.run("snapshots", 2, Snapshots(snapshotter.clone()));
    contents.run("snapshot-contents", 2, Contents(snapshotter));
}

fn waits(snapshot: &VolumeSnapshot) -> bool {
    let ready = snapshot.status.as_ref().is_some_and(|s| s.ready_to_use == Some(true));
    !ready || snapshot.metadata.deletion_timestamp.is_some()
}

/// The content that a snapshot has, or will have.
fn content_name(snapshot: &VolumeSnapshot) -> String {
    let given = snapshot.spec.source.volume_snapshot_content_name.clone();
    given.unwrap_or_else(|| format!("snapcontent-{}", snapshot.uid().unwrap_or_default()))
}

/// The loop over snapshots.
struct Snapshots(Arc<Snapshotter>);

impl Reconcile for Snapshots {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let snapshotter = &self.0;
        let Some(snapshot) = snapshotter.snapshots.get(key) else { return Ok(None) };
        let name = content_name(&snapshot);
        let content = snapshotter.contents.get(&Key::new("", &name));
        if snapshot.metadata.deletion_timestamp.is_some() {
            return release(snapshotter, &snapshot, content.as_deref()).await.map(|()| None);
        }
        let api: Api<VolumeSnapshot> = Api::namespaced(snapshotter.context.client.clone(), &key.namespace);
        let held = snapshot.finalizers();
        if ![BOUND, SOURCE].iter().all(|wanted| held.iter().any(|f| f == wanted)) {
            let mut all = without(&without(held, BOUND), SOURCE);
            all.extend([BOUND.into(), SOURCE.into()]);
            let patch = json!({"metadata": {"finalizers": all}});
            ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
        }
        let made = match (content, &snapshot.spec.source.persistent_volume_claim_name) {
            (Some(content), _) => bind(&snapshotter.context, &snapshot, &content).await?.map(|()| Some(content)),
            (None, Some(claim)) => create(snapshotter, &snapshot, claim, &name).await?.map(|()| None),
            (None, None) => Err(format!("snapshot content {name} isn't there")),
        };
        let present = snapshot.status.clone().unwrap_or_default();
        let had = present.ready_to_use == Some(true);
        let wanted = match made {
            Err(message) => {
                snapshotter.context.events.warning(snapshot.as_ref(), "SnapshotContentCreationFailed", message.clone());
                let error = VolumeSnapshotError { message: Some(message), time: None };
                VolumeSnapshotStatus { ready_to_use: Some(false), error: Some(error), ..present }
            }
            // The content's next change brings us here again.
            Ok(None) => return Ok(None),
            Ok(Some(content)) => status(&name, content.status.as_ref()),
        };
        let ready = wanted.ready_to_use == Some(true);
        patch_status_if_changed(&snapshotter.context, snapshot.as_ref(), snapshot.status.as_ref(), &wanted).await?;
        if ready && !had {
            snapshotter.context.events.normal(
                snapshot.as_ref(),
                "SnapshotReady",
                format!("Snapshot {key} is ready to use."),
            );
        }
        if let Some(claim) = snapshot.spec.source.persistent_volume_claim_name.as_ref().filter(|_| ready) {
            unhold(snapshotter, &snapshot, claim).await?;
        }
        Ok(None)
    }
}

/// What a snapshot says of its content.
fn status(content: &str, of: Option<&VolumeSnapshotContentStatus>) -> VolumeSnapshotStatus {
    let of = of.cloned().unwrap_or_default();
    let created = of.creation_time.and_then(|n| Timestamp::from_nanosecond(i128::from(n)).ok());
    let quantity = |bytes: i64| IntOrString::String(Quantity::from_int(bytes).canonical(true));
    VolumeSnapshotStatus {
        bound_volume_snapshot_content_name: Some(content.into()),
        ready_to_use: Some(of.ready_to_use.unwrap_or(false)),
        creation_time: created.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        restore_size: of.restore_size.filter(|b| *b > 0).map(quantity),
        error: of.error,
    }
}

/// The loop over contents: it writes what one needs of us: its finalizer, the node of a `local-path` snapshot, and the annotation that it may be
/// deleted.
struct Contents(Arc<Snapshotter>);

impl Reconcile for Contents {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let snapshotter = &self.0;
        let Some(content) = snapshotter.contents.get(key) else { return Ok(None) };
        let api: Api<VolumeSnapshotContent> = Api::all(snapshotter.context.client.clone());
        let mut metadata = json!({});
        if content.metadata.deletion_timestamp.is_none() {
            if !content.finalizers().iter().any(|f| f == CONTENT_FINALIZER) {
                let all: Vec<String> = content.finalizers().iter().cloned().chain([CONTENT_FINALIZER.into()]).collect();
                metadata["finalizers"] = json!(all);
            }
            if content.spec.driver == PROVISIONER && !content.labels().contains_key(NODE_KEY) {
                // Of one that an administrator made of what is there: its handle is NODE/NAME.
                let handle = content.spec.source.snapshot_handle.clone().unwrap_or_default();
                if let Some((node, _)) = local_path::split_snapshot_handle(&handle) {
                    metadata["labels"] = json!({NODE_KEY: node});
                }
            }
        } else if content.spec.deletion_policy == "Delete"
            && !content.annotations().contains_key(BEING_DELETED_ANNOTATION)
        {
            let of = &content.spec.volume_snapshot_ref;
            let of = Key::new(of.namespace.as_deref().unwrap_or(""), of.name.as_deref().unwrap_or(""));
            if snapshotter.snapshots.get(&of).is_none() {
                metadata["annotations"] = json!({BEING_DELETED_ANNOTATION: "yes"});
            }
        }
        if metadata.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(None);
        }
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        ignore(api.patch(&key.name, &PatchParams::default(), &patch).await, &[404]).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_says_of_its_content() {
        let status_of = status("c", None);
        assert_eq!(status_of.ready_to_use, Some(false));
        let of = VolumeSnapshotContentStatus {
            ready_to_use: Some(true),
            creation_time: Some(1_700_000_000_123_456_789),
            restore_size: Some(3 << 20),
            ..Default::default()
        };
        let status_of = status("c", Some(&of));
        assert_eq!(status_of.creation_time.as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(status_of.restore_size, Some(IntOrString::String("3Mi".into())));
        assert_eq!(status_of.bound_volume_snapshot_content_name.as_deref(), Some("c"));
    }
}
