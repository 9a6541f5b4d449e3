//! The kinds of `snapshot.storage.k8s.io/v1` (KEP-177): the fields that controllers read. Objects are patched, never written back whole,
//! so that other fields survive.
//!
//! Fields are documented at <https://kubernetes.io/docs/concepts/storage/volume-snapshots/>.

#![allow(missing_docs, reason = "the fields are upstream's")]

use std::collections::BTreeMap;

use informer::custom_kind;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Serialize};

/// Finalizer of a VolumeSnapshotContent (upstream's `VolumeSnapshotContentFinalizer`).
pub const CONTENT_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// Annotation of a VolumeSnapshotContent whose VolumeSnapshot is being deleted (upstream's `AnnVolumeSnapshotBeingDeleted`).
pub const BEING_DELETED_ANNOTATION: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";

custom_kind!(VolumeSnapshot, "snapshot.storage.k8s.io", "v1", "volumesnapshots", NamespaceResourceScope);
custom_kind!(VolumeSnapshotContent, "snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", ClusterResourceScope);
custom_kind!(VolumeSnapshotClass, "snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", ClusterResourceScope);

/// A user's request for a snapshot of a claim, or for a pre-provisioned one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    pub metadata: ObjectMeta,
    pub spec: VolumeSnapshotSpec,
    pub status: Option<VolumeSnapshotStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    pub source: VolumeSnapshotSource,
    pub volume_snapshot_class_name: Option<String>,
}

/// One of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSource {
    pub persistent_volume_claim_name: Option<String>,
    pub volume_snapshot_content_name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    pub bound_volume_snapshot_content_name: Option<String>,
    /// RFC 3339.
    pub creation_time: Option<String>,
    pub ready_to_use: Option<bool>,
    /// A quantity.
    pub restore_size: Option<IntOrString>,
    pub error: Option<VolumeSnapshotError>,
}

/// A snapshot in the storage system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshotContent {
    pub metadata: ObjectMeta,
    pub spec: VolumeSnapshotContentSpec,
    pub status: Option<VolumeSnapshotContentStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentSpec {
    /// `Delete` or `Retain`.
    pub deletion_policy: String,
    pub driver: String,
    pub source: VolumeSnapshotContentSource,
    pub volume_snapshot_class_name: Option<String>,
    pub volume_snapshot_ref: ObjectReference,
}

/// Exactly one is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentSource {
    pub volume_handle: Option<String>,
    pub snapshot_handle: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotContentStatus {
    pub snapshot_handle: Option<String>,
    /// Nanoseconds since 1970.
    pub creation_time: Option<i64>,
    pub ready_to_use: Option<bool>,
    /// Bytes.
    pub restore_size: Option<i64>,
    pub error: Option<VolumeSnapshotError>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshotError {
    pub message: Option<String>,
    /// RFC 3339.
    pub time: Option<String>,
}

/// The driver of snapshots, its parameters, and the deletion policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotClass {
    pub metadata: ObjectMeta,
    pub driver: String,
    /// `Delete` or `Retain`.
    pub deletion_policy: String,
    pub parameters: Option<BTreeMap<String, String>>,
}
