//! Snapshots of volumes (KEP-177): a VolumeSnapshot is what a user asks for, a VolumeSnapshotContent what a driver is to make of it,
//! and this brings the two together. Drivers' own sidecars make contents true; for volumes of `local-path` the node does.

mod kinds;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use csi::local_path::{self, CONTENT_SOURCE_ANNOTATION, ContentSource, NODE_KEY, PROVISIONER};
use csi::snapshots::{
    BEING_DELETED_ANNOTATION, CONTENT_FINALIZER, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent,
    VolumeSnapshotContentStatus,
};
use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::binding::without;
use crate::toolkit::{Context, Result, ignore};

/// Held by a snapshot while it has a content, and while a claim is being made of it.
const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const SOURCE: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
/// Held by a claim while a snapshot is taken of it.
const CLAIM_SOURCE: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
const IS_DEFAULT: &str = "snapshot.storage.kubernetes.io/is-default-class";

#[derive(Clone)]
struct Caches {
    snapshots: Informer<VolumeSnapshot>,
    contents: Informer<VolumeSnapshotContent>,
    classes: Informer<VolumeSnapshotClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Makes the kinds, and then keeps snapshots. Who brings definitions of his own keeps them.
pub async fn run(context: Context, to_claims: Queue) {
    kinds::ensure(&context).await;
    let caches = Caches {
        snapshots: context.informers.of(),
        contents: context.informers.of(),
        classes: context.informers.of(),
        claims: context.informers.of(),
        volumes: context.informers.of(),
    };
    let (queue, contents) =
        (Queue::of(&caches.snapshots, context.events.clone()), Queue::of(&caches.contents, context.events.clone()));
    let (add, claims) = (queue.clone(), caches.claims.clone());
    caches.snapshots.on_change(move |change| {
        let snapshot = change.object();
        add.add(snapshot.key());
        // Claims may wait to be made of it.
        let of_it = |c: &&Arc<PersistentVolumeClaim>| is_of(c, &snapshot.name_any());
        claims
            .list_in(&snapshot.namespace().unwrap_or_default())
            .iter()
            .filter(of_it)
            .for_each(|c| to_claims.add(c.key()));
    });
    let (to_snapshots, to_contents) = (queue.clone(), contents.clone());
    caches.contents.on_change(move |change| {
        to_contents.add(change.object().key());
        let of = &change.object().spec.volume_snapshot_ref;
        to_snapshots.add(Key::new(of.namespace.as_deref().unwrap_or(""), of.name.as_deref().unwrap_or("")));
    });
    // Snapshots may wait for their claim to be bound, for a class, or for a claim that is made of them.
    let (add, snapshots) = (queue.clone(), caches.snapshots.clone());
    caches.claims.on_change(move |change| {
        let namespace = change.object().namespace().unwrap_or_default();
        snapshots.list_in(&namespace).iter().filter(|s| waits(s)).for_each(|s| add.add(s.key()));
    });
    let (add, snapshots) = (queue.clone(), caches.snapshots.clone());
    caches.classes.on_change(move |_| snapshots.list().iter().filter(|s| waits(s)).for_each(|s| add.add(s.key())));
    let (add, snapshots) = (queue.clone(), caches.snapshots.clone());
    caches.volumes.on_change(move |_| snapshots.list().iter().filter(|s| waits(s)).for_each(|s| add.add(s.key())));
    let (work, own) = (context.clone(), caches.clone());
    queue.work("snapshots", 2, move |key| {
        let (context, caches) = (work.clone(), own.clone());
        async move {
            informer::synced!(caches.snapshots, caches.contents, caches.classes, caches.claims, caches.volumes);
            reconcile(&context, &caches, &key).await.map(|()| None::<Duration>)
        }
    });
    contents.work("snapshot-contents", 2, move |key| {
        let (context, caches) = (context.clone(), caches.clone());
        async move {
            informer::synced!(caches.snapshots, caches.contents, caches.volumes);
            content(&context, &caches, &key).await.map(|()| None::<Duration>)
        }
    });
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

async fn reconcile(context: &Context, caches: &Caches, key: &Key) -> Result {
    let Some(snapshot) = caches.snapshots.get(key) else { return Ok(()) };
    let name = content_name(&snapshot);
    let content = caches.contents.get(&Key::new("", &name));
    if snapshot.metadata.deletion_timestamp.is_some() {
        return release(context, caches, &snapshot, content.as_deref()).await;
    }
    let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &key.namespace);
    let held = snapshot.finalizers();
    if ![BOUND, SOURCE].iter().all(|wanted| held.iter().any(|f| f == wanted)) {
        let mut all = without(&without(held, BOUND), SOURCE);
        all.extend([BOUND.into(), SOURCE.into()]);
        let patch = json!({"metadata": {"finalizers": all}});
        ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
    }
    let made = match (content, &snapshot.spec.source.persistent_volume_claim_name) {
        (Some(content), _) => bind(context, &snapshot, &content).await?.map(|()| Some(content)),
        (None, Some(claim)) => create(context, caches, &snapshot, claim, &name).await?.map(|()| None),
        (None, None) => Err(format!("snapshot content {name} isn't there")),
    };
    let patch = match made {
        Err(message) => {
            let present = snapshot.status.clone().unwrap_or_default();
            context.events.warning(snapshot.as_ref(), "SnapshotContentCreationFailed", message.clone());
            json!({"readyToUse": false, "boundVolumeSnapshotContentName": present.bound_volume_snapshot_content_name,
                   "error": {"message": message}})
        }
        // The content's next change brings us here again.
        Ok(None) => return Ok(()),
        Ok(Some(content)) => status(&name, content.status.as_ref()),
    };
    let ready = patch["readyToUse"] == true;
    let had = snapshot.status.as_ref().is_some_and(|s| s.ready_to_use == Some(true));
    // What is asked twice is no change; the API sees to that.
    let patch = Patch::Merge(json!({"status": patch}));
    ignore(api.patch_status(&key.name, &PatchParams::default(), &patch).await, &[404])?;
    if ready && !had {
        context.events.normal(snapshot.as_ref(), "SnapshotReady", format!("Snapshot {key} is ready to use."));
    }
    if let Some(claim) = snapshot.spec.source.persistent_volume_claim_name.as_ref().filter(|_| ready) {
        unhold(context, caches, &snapshot, claim).await?;
    }
    Ok(())
}

/// What a snapshot says of its content.
fn status(content: &str, of: Option<&VolumeSnapshotContentStatus>) -> Value {
    let of = of.cloned().unwrap_or_default();
    let created = of.creation_time.and_then(|n| Timestamp::from_nanosecond(i128::from(n)).ok());
    let quantity = |bytes: i64| Quantity::from_int(bytes).canonical(true);
    json!({"boundVolumeSnapshotContentName": content, "readyToUse": of.ready_to_use.unwrap_or(false),
           "creationTime": created.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
           "restoreSize": of.restore_size.filter(|b| *b > 0).map(quantity),
           "error": of.error})
}

/// Makes sure that a content is the snapshot's, also one that an administrator made beforehand. The inner error is the user's.
async fn bind(
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
async fn create(
    context: &Context,
    caches: &Caches,
    snapshot: &VolumeSnapshot,
    claim_name: &str,
    name: &str,
) -> Result<Result<(), String>> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let Some(claim) = caches.claims.get(&Key::new(&namespace, claim_name)) else {
        return Ok(Err(format!("the claim {claim_name:?} isn't there")));
    };
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
    let Some(volume) = volume.and_then(|v| caches.volumes.get(&Key::new("", &v))) else {
        return Ok(Err(format!("the claim {claim_name:?} isn't bound to a volume yet")));
    };
    let Some((driver, handle, node)) = source(&volume) else {
        return Ok(Err(format!(
            "volume {} belongs to no driver that takes snapshots: it must be of a CSI driver or of local-path",
            volume.name_any()
        )));
    };
    let class = match class(caches, snapshot, &driver) {
        Ok(class) => class,
        Err(message) => return Ok(Err(message)),
    };
    if !claim.finalizers().iter().any(|f| f == CLAIM_SOURCE) {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
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
    let api: Api<VolumeSnapshotContent> = Api::all(context.client.clone());
    ignore(api.create(&PostParams::default(), &content).await, &[409])?;
    let text = format!("Waiting for a snapshot {namespace}/{} to be created by the CSI driver.", snapshot.name_any());
    context.events.normal(snapshot, "CreatingSnapshot", text);
    Ok(Ok(()))
}

/// The class that a snapshot names, or the default one of the driver.
fn class(caches: &Caches, snapshot: &VolumeSnapshot, driver: &str) -> Result<Arc<VolumeSnapshotClass>, String> {
    if let Some(name) = snapshot.spec.volume_snapshot_class_name.as_deref().filter(|n| !n.is_empty()) {
        let class = caches.classes.get(&Key::new("", name));
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
    let mut defaults: Vec<_> = caches.classes.list().into_iter().filter(is_default).collect();
    match (defaults.pop(), defaults.is_empty()) {
        (Some(class), true) => Ok(class),
        (None, _) => Err(format!("no VolumeSnapshotClass of driver {driver} is the default one: name one")),
        (Some(_), false) => {
            Err(format!("{} default classes of driver {driver} are there: name one", defaults.len() + 1))
        }
    }
}

/// A claim may go once no snapshot is being taken of it.
async fn unhold(context: &Context, caches: &Caches, snapshot: &VolumeSnapshot, claim: &str) -> Result {
    let namespace = snapshot.namespace().unwrap_or_default();
    let of_claim = |s: &Arc<VolumeSnapshot>| {
        s.spec.source.persistent_volume_claim_name.as_deref() == Some(claim)
            && s.uid() != snapshot.uid()
            && s.metadata.deletion_timestamp.is_none()
            && waits(s)
    };
    let present = caches.claims.get(&Key::new(&namespace, claim));
    let Some(present) = present.filter(|c| c.finalizers().iter().any(|f| f == CLAIM_SOURCE)) else { return Ok(()) };
    if caches.snapshots.list_in(&namespace).iter().any(of_claim) {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({"metadata": {"finalizers": without(present.finalizers(), CLAIM_SOURCE)}});
    ignore(api.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
}

/// Whether a claim that has no volume yet is to be made of a snapshot.
fn is_of(claim: &PersistentVolumeClaim, snapshot: &str) -> bool {
    let spec = claim.spec.as_ref();
    let source = spec.and_then(|s| s.data_source.as_ref());
    source.is_some_and(|s| s.kind == "VolumeSnapshot" && s.name == snapshot)
        && spec.is_some_and(|s| s.volume_name.is_none())
}

/// Whether a volume is being made of a snapshot.
fn is_source(caches: &Caches, snapshot: &VolumeSnapshot, content: Option<&VolumeSnapshotContent>) -> bool {
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
    caches.claims.list_in(&namespace).iter().any(of_it) || caches.volumes.list().iter().any(fills)
}

/// A snapshot that is to be deleted goes once its content has gone, or is to stay.
async fn release(
    context: &Context,
    caches: &Caches,
    snapshot: &VolumeSnapshot,
    content: Option<&VolumeSnapshotContent>,
) -> Result {
    if is_source(caches, snapshot, content) {
        context.events.warning(snapshot, "SnapshotDeletePending", "Snapshot is being used to restore a PVC");
        return Ok(());
    }
    let own = content.filter(|c| {
        let uid = &c.spec.volume_snapshot_ref.uid;
        uid.is_some() && *uid == snapshot.metadata.uid
    });
    if let Some(content) = own.filter(|c| c.spec.deletion_policy == "Delete") {
        let api: Api<VolumeSnapshotContent> = Api::all(context.client.clone());
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
        unhold(context, caches, snapshot, claim).await?;
    }
    let left = without(&without(snapshot.finalizers(), BOUND), SOURCE);
    if left.len() == snapshot.finalizers().len() {
        return Ok(());
    }
    let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &snapshot.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"finalizers": left}});
    ignore(api.patch(&snapshot.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
}

/// What a content needs that nobody else gives it: its finalizer, the node of a folder, and the word that it may go.
async fn content(context: &Context, caches: &Caches, key: &Key) -> Result {
    let Some(content) = caches.contents.get(key) else { return Ok(()) };
    let api: Api<VolumeSnapshotContent> = Api::all(context.client.clone());
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
    } else if content.spec.deletion_policy == "Delete" && !content.annotations().contains_key(BEING_DELETED_ANNOTATION)
    {
        let of = &content.spec.volume_snapshot_ref;
        let of = Key::new(of.namespace.as_deref().unwrap_or(""), of.name.as_deref().unwrap_or(""));
        if caches.snapshots.get(&of).is_none() {
            metadata["annotations"] = json!({BEING_DELETED_ANNOTATION: "yes"});
        }
    }
    if metadata.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    ignore(api.patch(&key.name, &PatchParams::default(), &patch).await, &[404])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_says_of_its_content() {
        let said = status("c", None);
        assert_eq!(said["readyToUse"], false);
        let of = VolumeSnapshotContentStatus {
            ready_to_use: Some(true),
            creation_time: Some(1_700_000_000_123_456_789),
            restore_size: Some(3 << 20),
            ..Default::default()
        };
        let said = status("c", Some(&of));
        assert_eq!(said["creationTime"], "2023-11-14T22:13:20Z");
        assert_eq!(said["restoreSize"], "3Mi");
        assert_eq!(said["boundVolumeSnapshotContentName"], "c");
    }
}
