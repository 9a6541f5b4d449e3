//! `PersistentVolume`: a volume of the cluster.

use apimachinery::{Cause, ObjectExt as _, Quantity};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use super::pod::{default_foreign_volume, placement};
use crate::columns::{AGE, Column, NAME, Printer, age, name, text, wide};
use crate::defaults::{child, default, default_text, spec};
use crate::kinds::{Deletion, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::{IMMUTABLE, one_of};

pub static KIND: Kind = Kind {
    short_names: &["pv"],
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        validate,
        printer: Printer { columns: COLUMNS, row },
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "PersistentVolume", "persistentvolumes")
};

fn defaults(object: &mut Value) {
    if let Some(spec) = spec(object) {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", || json!("Filesystem"));
        if let Some(path) = child(spec, "hostPath") {
            default(path, "type", || json!(""));
        }
        default_foreign_volume(spec);
    }
    let Some(map) = object.as_object_mut() else { return };
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Pending");
    }
}

/// What a volume may be: the drivers of most are elsewhere by now, but objects of before are kept.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// Those of a volume or claim.
pub(crate) fn check_access_modes(spec: &Field<'_>, causes: &mut Causes) {
    let modes = spec.at("accessModes");
    modes.require("at least 1 access mode is required", causes);
    for mode in modes.items().filter(|mode| !MODES.contains(&mode.text())) {
        causes.push(Cause::not_supported(&modes.path, mode.value, MODES));
    }
    let texts = modes.texts();
    if texts.len() > 1 && texts.contains(&"ReadWriteOncePod") {
        modes.forbid("may not use ReadWriteOncePod with other access modes", causes);
    }
    spec.at("volumeMode").one_of(&["Block", "Filesystem"], causes);
}

pub(crate) fn size(value: &Value, field: &str, causes: &mut Causes) -> Option<Quantity> {
    if value.is_null() {
        causes.push(Cause::required(field, ""));
        return None;
    }
    let text = value.as_str().map(String::from).unwrap_or_else(|| value.to_string());
    match text.parse::<Quantity>() {
        Ok(q) if q > Quantity::ZERO => Some(q),
        Ok(_) => {
            causes.push(Cause::invalid(field, value, "must be greater than zero"));
            None
        }
        Err(e) => {
            causes.push(Cause::invalid(field, value, &e.to_string()));
            None
        }
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_access_modes(&Field::new(&object["spec"], "spec"), causes);
    size(&object["spec"]["capacity"]["storage"], "spec.capacity[storage]", causes);
    let policies = &["Delete", "Recycle", "Retain"];
    let field = "spec.persistentVolumeReclaimPolicy";
    one_of(object, &["spec", "persistentVolumeReclaimPolicy"], field, policies, causes);
    let sources = SOURCES.iter().filter(|source| object["spec"][**source].is_object()).count();
    match sources {
        0 => causes.push(Cause::required("spec", "must specify a volume type")),
        1 => {}
        _ => causes.push(Cause::forbidden("spec", "may not specify more than 1 volume type")),
    }
    if !object["spec"]["local"].is_null() && object["spec"]["nodeAffinity"].is_null() {
        causes.push(Cause::required("spec.nodeAffinity", "Local volume requires node affinity"));
    }
    let affinity = Field::new(object.at(&["spec", "nodeAffinity", "required"]), "spec.nodeAffinity.required");
    if affinity.is_set() {
        placement::node_selector(&affinity, causes);
    }
    if let Some(old) = old {
        if SOURCES.iter().any(|source| old["spec"][*source] != object["spec"][*source]) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            causes.push(Cause::forbidden("spec.persistentvolumesource", detail));
        }
        if !old["spec"]["nodeAffinity"].is_null() && old["spec"]["nodeAffinity"] != object["spec"]["nodeAffinity"] {
            causes.push(Cause::invalid("spec.nodeAffinity", &object["spec"]["nodeAffinity"], IMMUTABLE));
        }
        if old["spec"]["volumeMode"] != object["spec"]["volumeMode"] {
            causes.push(Cause::invalid("spec.volumeMode", &object["spec"]["volumeMode"], IMMUTABLE));
        }
    }
}

pub(super) fn access_modes(modes: &[Value]) -> Value {
    // Each once, in one order whatever the object's is.
    let known = MODES.iter().zip(["RWO", "ROX", "RWX", "RWOP"]);
    let short = known.filter(|(mode, _)| modes.iter().any(|m| m == *mode)).map(|(_, short)| short);
    short.collect::<Vec<_>>().join(",").into()
}

/// `<unset>` is what upstream prints for a missing attributes class.
pub(super) fn attributes_class(o: &Value) -> Value {
    match o.str_at(&["spec", "volumeAttributesClassName"]) {
        "" => "<unset>".into(),
        class => class.into(),
    }
}

const COLUMNS: &[Column] = &[
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

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
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
        super::persistent_volume_claim::class_of(o).into(),
        attributes_class(o),
        o.str_at(&["status", "reason"]).into(),
        age(o, now),
        o.str_at(&["spec", "volumeMode"]).into(),
    ]
}
