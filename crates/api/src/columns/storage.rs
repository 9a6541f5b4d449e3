//! Volumes, claims and classes.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, Printer, Shape, age, name, text, wide};

pub fn printer(plural: &str) -> Option<Printer> {
    let (columns, row): Shape = match plural {
        "persistentvolumes" => (VOLUME, volume),
        "persistentvolumeclaims" => (CLAIM, claim),
        "storageclasses" => (CLASS, class),
        _ => return None,
    };
    Some(Printer { columns, row })
}

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

fn access_modes(modes: &[Value]) -> Value {
    let short = modes.iter().map(|m| match m.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "?",
    });
    short.collect::<Vec<_>>().join(",").into()
}

/// `<unset>` is what upstream prints for a missing attributes class.
fn attributes_class(o: &Value) -> Value {
    match o.str_at(&["spec", "volumeAttributesClassName"]) {
        "" => "<unset>".into(),
        class => class.into(),
    }
}

const VOLUME: &[Column] = &[
    NAME,
    text("Capacity"),
    text("Access Modes"),
    text("Reclaim Policy"),
    text("Status"),
    text("Claim"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    text("Reason"),
    AGE,
    wide("VolumeMode"),
];

fn volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = &o["spec"]["claimRef"];
    let claim = match claim.str_at(&["name"]) {
        "" => String::new(),
        name => format!("{}/{name}", claim.str_at(&["namespace"])),
    };
    let phase = if o.is_deleting() { "Terminating" } else { o.str_at(&["status", "phase"]) };
    vec![
        name(o),
        o.str_at(&["spec", "capacity", "storage"]).into(),
        access_modes(o.array_at(&["spec", "accessModes"])),
        o.str_at(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase.into(),
        claim.into(),
        o.str_at(&["spec", "storageClassName"]).into(),
        attributes_class(o),
        o.str_at(&["status", "reason"]).into(),
        age(o, now),
        o.str_at(&["spec", "volumeMode"]).into(),
    ]
}

const CLAIM: &[Column] = &[
    NAME,
    text("Status"),
    text("Volume"),
    text("Capacity"),
    text("Access Modes"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];

fn claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let phase = if o.is_deleting() { "Terminating" } else { o.str_at(&["status", "phase"]) };
    let bound = !o.str_at(&["spec", "volumeName"]).is_empty();
    let (capacity, modes): (Value, Value) = if bound {
        (o.str_at(&["status", "capacity", "storage"]).into(), access_modes(o.array_at(&["status", "accessModes"])))
    } else {
        ("".into(), "".into())
    };
    vec![
        name(o),
        phase.into(),
        o.str_at(&["spec", "volumeName"]).into(),
        capacity,
        modes,
        o.str_at(&["spec", "storageClassName"]).into(),
        attributes_class(o),
        age(o, now),
        o.str_at(&["spec", "volumeMode"]).into(),
    ]
}

const CLASS: &[Column] = &[
    NAME,
    text("Provisioner"),
    text("ReclaimPolicy"),
    text("VolumeBindingMode"),
    Column { name: "AllowVolumeExpansion", kind: "boolean", wide: false },
    AGE,
];

fn class(o: &Value, now: Timestamp) -> Vec<Value> {
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
