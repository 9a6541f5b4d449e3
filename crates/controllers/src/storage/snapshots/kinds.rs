//! The kinds of `snapshot.storage.k8s.io`.

use csi::local_path::PROVISIONER;
use csi::snapshots::VolumeSnapshotClass;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::IS_DEFAULT;
use crate::toolkit::definitions::{self, Kind, definition, either, fixed, object, one_of, text, texts};
use crate::toolkit::{Context, ignore};

const GROUP: &str = "snapshot.storage.k8s.io";
const APPROVED: &str = "https://github.com/kubernetes-csi/external-snapshotter/pull/814";

/// Makes the kinds, and the class of `local-path`.
pub async fn ensure(context: &Context) {
    definitions::ensure(context, kinds()).await;
    if context.config.local_storage {
        let class = json!({"metadata": {"name": "local-path", "annotations": {IS_DEFAULT: "true"}},
                           "driver": PROVISIONER, "deletionPolicy": "Delete"});
        let Ok(class) = serde_json::from_value::<VolumeSnapshotClass>(class) else { return };
        let classes: Api<VolumeSnapshotClass> = Api::all(context.client.clone());
        if let Err(error) = ignore(classes.create(&PostParams::default(), &class).await, &[409]) {
            tracing::warn!(%error, "failed to create the VolumeSnapshotClass local-path");
        }
    }
}

fn kinds() -> [Value; 3] {
    [snapshot(), content(), class()]
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// What went wrong with a snapshot, and when.
fn error() -> Value {
    object(json!({"message": text(), "time": time()}), &[])
}

/// What becomes of the snapshot in the storage system when its object is deleted.
fn deletion_policy() -> Value {
    one_of(&["Delete", "Retain"])
}

fn snapshot() -> Value {
    let quantity = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let of_claim = json!({"persistentVolumeClaimName": fixed(text(), "persistentVolumeClaimName"),
                          "volumeSnapshotContentName": fixed(text(), "volumeSnapshotContentName")});
    definition(Kind {
        group: GROUP,
        version: "v1",
        approved: APPROVED,
        kind: "VolumeSnapshot",
        plural: "volumesnapshots",
        short: &["vs", "volsnap"],
        namespaced: true,
        properties: json!({
                "spec": object(json!({"volumeSnapshotClassName": text(),
                    "source": either(object(of_claim, &[]), ["persistentVolumeClaimName", "volumeSnapshotContentName"])}),
                    &["source"]),
                "status": object(json!({"boundVolumeSnapshotContentName": text(), "creationTime": time(), "error": error(),
                    "readyToUse": {"type": "boolean"}, "restoreSize": quantity, "volumeGroupSnapshotName": text()}), &[])}),
        required: &["spec"],
        columns: &[
            ("ReadyToUse", "boolean", ".status.readyToUse"),
            ("SourcePVC", "string", ".spec.source.persistentVolumeClaimName"),
            ("SourceSnapshotContent", "string", ".spec.source.volumeSnapshotContentName"),
            ("RestoreSize", "string", ".status.restoreSize"),
            ("SnapshotClass", "string", ".spec.volumeSnapshotClassName"),
            ("SnapshotContent", "string", ".status.boundVolumeSnapshotContentName"),
            ("CreationTime", "date", ".status.creationTime"),
        ],
    })
}

fn content() -> Value {
    let number = json!({"type": "integer", "format": "int64", "minimum": 0});
    let reference = ["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];
    let reference = object(reference.iter().map(|field| ((*field).to_string(), text())).collect(), &[]);
    let of_driver =
        json!({"volumeHandle": fixed(text(), "volumeHandle"), "snapshotHandle": fixed(text(), "snapshotHandle")});
    definition(Kind {
        group: GROUP,
        version: "v1",
        approved: APPROVED,
        kind: "VolumeSnapshotContent",
        plural: "volumesnapshotcontents",
        short: &["vsc", "vscs"],
        namespaced: false,
        properties: json!({
                "spec": object(json!({"deletionPolicy": deletion_policy(), "driver": fixed(text(), "driver"),
                    "source": either(object(of_driver, &[]), ["volumeHandle", "snapshotHandle"]),
                    "sourceVolumeMode": text(), "volumeSnapshotClassName": text(), "volumeSnapshotRef": reference}),
                    &["deletionPolicy", "driver", "source", "volumeSnapshotRef"]),
                "status": object(json!({"creationTime": number, "error": error(), "readyToUse": {"type": "boolean"},
                    "restoreSize": number, "snapshotHandle": text(), "volumeGroupSnapshotHandle": text()}), &[])}),
        required: &["spec"],
        columns: &[
            ("ReadyToUse", "boolean", ".status.readyToUse"),
            ("RestoreSize", "integer", ".status.restoreSize"),
            ("DeletionPolicy", "string", ".spec.deletionPolicy"),
            ("Driver", "string", ".spec.driver"),
            ("VolumeSnapshotClass", "string", ".spec.volumeSnapshotClassName"),
            ("VolumeSnapshot", "string", ".spec.volumeSnapshotRef.name"),
            ("VolumeSnapshotNamespace", "string", ".spec.volumeSnapshotRef.namespace"),
        ],
    })
}

fn class() -> Value {
    definition(Kind {
        group: GROUP,
        version: "v1",
        approved: APPROVED,
        kind: "VolumeSnapshotClass",
        plural: "volumesnapshotclasses",
        short: &["vsclass", "vsclasses"],
        namespaced: false,
        properties: json!({"deletionPolicy": deletion_policy(), "driver": text(), "parameters": texts()}),
        required: &["deletionPolicy", "driver"],
        columns: &[("Driver", "string", ".driver"), ("DeletionPolicy", "string", ".deletionPolicy")],
    })
}
