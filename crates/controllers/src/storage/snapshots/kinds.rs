//! The kinds of `snapshot.storage.k8s.io`: upstream has them as custom resources, and so have we, so that drivers that bring their
//! definitions along find what they expect.

use csi::local_path::PROVISIONER;
use csi::snapshots::VolumeSnapshotClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use super::IS_DEFAULT;
use crate::Context;

/// Makes what isn't there, and waits until it is served.
pub async fn ensure(context: &Context) {
    let api: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    for definition in definitions() {
        let Ok(definition) = serde_json::from_value::<CustomResourceDefinition>(definition) else { continue };
        let name = definition.metadata.name.clone().unwrap_or_default();
        if let Err(error) = crate::ignore(api.create(&PostParams::default(), &definition).await, &[409]) {
            tracing::warn!(%error, name, "a kind of snapshots can't be made");
        }
        if let Err(error) = await_condition(api.clone(), &name, conditions::is_crd_established()).await {
            tracing::warn!(%error, name, "it isn't known whether a kind of snapshots is served");
        }
    }
    if context.config.local_storage {
        let class = json!({"metadata": {"name": "local-path", "annotations": {IS_DEFAULT: "true"}},
                           "driver": PROVISIONER, "deletionPolicy": "Delete"});
        let Ok(class) = serde_json::from_value::<VolumeSnapshotClass>(class) else { return };
        let classes: Api<VolumeSnapshotClass> = Api::all(context.client.clone());
        if let Err(error) = crate::ignore(classes.create(&PostParams::default(), &class).await, &[409]) {
            tracing::warn!(%error, "the snapshot class local-path can't be made");
        }
    }
}

fn text() -> Value {
    json!({"type": "string"})
}

fn texts() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn one_of(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

/// A field that keeps what it was made with.
fn fixed(mut schema: Value, what: &str) -> Value {
    schema["x-kubernetes-validations"] =
        json!([{"rule": "self == oldSelf", "message": format!("{what} is immutable")}]);
    schema
}

/// Exactly one of two fields.
fn either(mut schema: Value, [a, b]: [&str; 2]) -> Value {
    schema["x-kubernetes-validations"] = json!([{
        "rule": format!("has(self.{a}) != has(self.{b})"), "message": format!("exactly one of {a} and {b} must be set")}]);
    schema
}

struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: [&'static str; 2],
    namespaced: bool,
    /// The properties beside `metadata`, and those that must be there.
    properties: Value,
    required: &'static [&'static str],
    /// Name, type and path.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

fn definition(kind: Kind) -> Value {
    let (singular, group) = (kind.kind.to_ascii_lowercase(), "snapshot.storage.k8s.io");
    let columns = kind.columns.iter().chain(&[("Age", "date", ".metadata.creationTimestamp")]);
    let columns: Vec<Value> = columns.map(|(n, t, p)| json!({"name": n, "type": t, "jsonPath": p})).collect();
    let has_status = !kind.properties["status"].is_null();
    let mut properties = kind.properties;
    properties["apiVersion"] = text();
    properties["kind"] = text();
    properties["metadata"] = json!({"type": "object"});
    json!({
        "metadata": {"name": format!("{}.{group}", kind.plural), "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/814"}},
        "spec": {"group": group, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "names": {"kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
                      "singular": singular, "shortNames": kind.short},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": if has_status { json!({"status": {}}) } else { Value::Null },
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": object(properties, kind.required)}}]}})
}

fn definitions() -> [Value; 3] {
    let time = json!({"type": "string", "format": "date-time"});
    let error = object(json!({"message": text(), "time": time}), &[]);
    let number = json!({"type": "integer", "format": "int64", "minimum": 0});
    let quantity = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let policy = one_of(&["Delete", "Retain"]);
    let reference = ["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];
    let reference = object(reference.iter().map(|field| ((*field).to_string(), text())).collect(), &[]);
    let of_claim = json!({"persistentVolumeClaimName": fixed(text(), "persistentVolumeClaimName"),
                          "volumeSnapshotContentName": fixed(text(), "volumeSnapshotContentName")});
    let of_driver =
        json!({"volumeHandle": fixed(text(), "volumeHandle"), "snapshotHandle": fixed(text(), "snapshotHandle")});
    [
        definition(Kind {
            kind: "VolumeSnapshot",
            plural: "volumesnapshots",
            short: ["vs", "volsnap"],
            namespaced: true,
            properties: json!({
                "spec": object(json!({"volumeSnapshotClassName": text(),
                    "source": either(object(of_claim, &[]), ["persistentVolumeClaimName", "volumeSnapshotContentName"])}),
                    &["source"]),
                "status": object(json!({"boundVolumeSnapshotContentName": text(), "creationTime": time, "error": error,
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
        }),
        definition(Kind {
            kind: "VolumeSnapshotContent",
            plural: "volumesnapshotcontents",
            short: ["vsc", "vscs"],
            namespaced: false,
            properties: json!({
                "spec": object(json!({"deletionPolicy": policy, "driver": fixed(text(), "driver"),
                    "source": either(object(of_driver, &[]), ["volumeHandle", "snapshotHandle"]),
                    "sourceVolumeMode": text(), "volumeSnapshotClassName": text(), "volumeSnapshotRef": reference}),
                    &["deletionPolicy", "driver", "source", "volumeSnapshotRef"]),
                "status": object(json!({"creationTime": number, "error": error, "readyToUse": {"type": "boolean"},
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
        }),
        definition(Kind {
            kind: "VolumeSnapshotClass",
            plural: "volumesnapshotclasses",
            short: ["vsclass", "vsclasses"],
            namespaced: false,
            properties: json!({"deletionPolicy": policy, "driver": text(), "parameters": texts()}),
            required: &["deletionPolicy", "driver"],
            columns: &[("Driver", "string", ".driver"), ("DeletionPolicy", "string", ".deletionPolicy")],
        }),
    ]
}
