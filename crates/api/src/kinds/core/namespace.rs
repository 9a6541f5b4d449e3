//! `Namespace`: what most objects are in.

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::defaults::{child, default, default_text};
use crate::kinds::{Deletion, Kind, Strategy, Subresource, Target};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["ns"],
    selectable: &["status.phase"],
    subresources: &[Subresource::Status, Subresource::Finalize],
    strategy: Strategy {
        name: names::dns1123_label,
        defaults,
        prepare_create: add_finalizer,
        prepare_update,
        validate_status: Some(validate_status),
        printer: Printer { columns: &[NAME, text("Status"), AGE], row },
        deletion: Deletion {
            refuse: |name| IMMORTAL.contains(&name).then_some("this namespace may not be deleted"),
            mark: |namespace| drop(namespace.child_mut("status").insert("phase".into(), "Terminating".into())),
            is_held: |namespace| !namespace.array_at(&["spec", "finalizers"]).is_empty(),
            by_collection: false,
            ..Deletion::PLAIN
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "Namespace", "namespaces")
};

/// Namespaces that can't be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn defaults(object: &mut Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_string();
    let Some(map) = object.as_object_mut() else { return };
    default(map, "spec", || json!({}));
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Active");
    }
    if let Some(meta) = child(map, "metadata") {
        default(meta, "labels", || json!({}));
        if let Some(labels) = child(meta, "labels") {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
}

/// At its creation alone: whoever takes it away later ends the namespace.
fn add_finalizer(namespace: &mut Value) {
    let mut finalizers = namespace.array_at(&["spec", "finalizers"]).to_vec();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    namespace.child_mut("spec").insert("finalizers".into(), finalizers.into());
}

/// Finalizers change by the subresource `finalize` alone.
fn prepare_update(new: &mut Value, old: &Value, target: Target) {
    if target != Target::Main {
        return;
    }
    match &old["spec"]["finalizers"] {
        Value::Null => drop(new.child_mut("spec").remove("finalizers")),
        present => drop(new.child_mut("spec").insert("finalizers".into(), present.clone())),
    }
}

/// The phase follows from whether it is being deleted.
fn validate_status(object: &Value, _: &Value, causes: &mut Causes) {
    let (phase, when) = if object.is_deleting() { ("Terminating", "not empty") } else { ("Active", "empty") };
    let said = Field::new(object.at(&["status", "phase"]), "status.Phase");
    if said.text() != phase {
        said.invalid(&format!("may only be '{phase}' if `deletionTimestamp` is {when}"), causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.str_at(&["status", "phase"]).into(), age(o, now)]
}
