//! `StorageClass`: how volumes are made.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, text};
use crate::defaults::default;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::Causes;
use crate::validate::{immutable, one_of};

pub static KIND: Kind = Kind {
    short_names: &["sc"],
    strategy: Strategy {
        defaults: |object| {
            if let Some(class) = object.as_object_mut() {
                default(class, "reclaimPolicy", || json!("Delete"));
                default(class, "volumeBindingMode", || json!("Immediate"));
            }
        },
        validate,
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "StorageClass", "storageclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    if object.str_at(&["provisioner"]).is_empty() {
        causes.push(Cause::required("provisioner", ""));
    }
    for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
        immutable(object, old, &[field], field, causes);
    }
    one_of(object, &["reclaimPolicy"], "reclaimPolicy", &["Delete", "Retain"], causes);
    let modes = &["Immediate", "WaitForFirstConsumer"];
    one_of(object, &["volumeBindingMode"], "volumeBindingMode", modes, causes);
}

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

const COLUMNS: &[Column] = &[
    NAME,
    text("Provisioner"),
    text("ReclaimPolicy"),
    text("VolumeBindingMode"),
    Column { name: "AllowVolumeExpansion", kind: "boolean", wide: false },
    AGE,
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let is_default = o.at(&["metadata", "annotations", DEFAULT_CLASS]) == "true";
    let shown = if is_default { format!("{} (default)", o.name()) } else { o.name().to_string() };
    vec![
        shown.into(),
        o.str_at(&["provisioner"]).into(),
        o.str_at(&["reclaimPolicy"]).into(),
        o.str_at(&["volumeBindingMode"]).into(),
        json!(o["allowVolumeExpansion"] == true),
        age(o, now),
    ]
}
