//! `PersistentVolumeClaim`: what asks for a volume.

use apimachinery::{Cause, ObjectExt as _, Quantity};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::GROUP;
use super::persistent_volume::{access_modes, attributes_class, check_access_modes, size};
use crate::columns::{AGE, Column, NAME, Printer, age, name, text, wide};
use crate::defaults::{child, default, default_text, spec};
use crate::kinds::quota::{Usage, add, count};
use crate::kinds::{Deletion, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["pvc"],
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults,
        validate,
        validate_status: Some(validate_status),
        printer: Printer { columns: COLUMNS, row },
        usage,
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
};

fn defaults(object: &mut Value) {
    if let Some(spec) = spec(object) {
        default_spec(spec);
        data_source(spec);
    }
    let Some(map) = object.as_object_mut() else { return };
    default(map, "status", || json!({}));
    if let Some(status) = child(map, "status") {
        default_text(status, "phase", "Pending");
    }
}

/// Also that of a claim which a template makes.
pub fn default_spec(spec: &mut Map<String, Value>) {
    default(spec, "volumeMode", || json!("Filesystem"));
}

/// The old name and the new one of what a claim begins with say the same (KEP-1495), unless it is in another namespace.
fn data_source(spec: &mut Map<String, Value>) {
    let of = |spec: &Map<String, Value>, key: &str| spec.get(key).filter(|v| !v.is_null()).cloned();
    match (of(spec, "dataSource"), of(spec, "dataSourceRef")) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".into(), source)),
        (None, Some(source)) if source.get("namespace").is_none_or(Value::is_null) => {
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    check_access_modes(&Field::new(&object["spec"], "spec"), causes);
    let request = &["spec", "resources", "requests", "storage"];
    let now = size(object.at(request), "spec.resources[storage]", causes);
    let Some(old) = old else { return };
    let is_bound = old.str_at(&["status", "phase"]) == "Bound";
    // After creation the binder may set the volume's name; of a bound claim a user may change the request.
    let freeze = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            if is_bound {
                map.remove("volumeAttributesClassName");
                if let Some(requests) = child(map, "resources").and_then(|r| child(r, "requests")) {
                    requests.retain(|resource, _| resource != "storage");
                }
            }
            if old.str_at(&["spec", "volumeName"]).is_empty() {
                map.remove("volumeName");
            }
            if old["spec"]["storageClassName"].is_null() {
                map.remove("storageClassName");
            }
        }
        spec
    };
    if freeze(object) != freeze(old) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        causes.push(Cause::forbidden("spec", detail));
    }
    let before = old.str_at(request).parse::<Quantity>().ok();
    if let (Some(now), Some(before)) = (now, before)
        && now < before
    {
        // A request that couldn't be met can be taken back, down to what there is (KEP-1790).
        let there = Quantity::from_json(old.at(&["status", "capacity", "storage"]));
        if there.is_none_or(|there| now <= there) {
            let detail = "field can not be less than status.capacity";
            causes.push(Cause::forbidden("spec.resources.requests.storage", detail));
        }
    }
    let class = |claim: &Value| claim["spec"]["volumeAttributesClassName"].clone();
    if is_bound && !class(old).is_null() && class(object).is_null() {
        let detail = "update from non-nil value to nil is forbidden";
        causes.push(Cause::forbidden("spec.volumeAttributesClassName", detail));
    }
}

/// How far an enlargement is (KEP-1790).
const RESIZING: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

fn validate_status(object: &Value, _: &Value, causes: &mut Causes) {
    let status = status::of(object);
    for list in ["capacity", "allocatedResources"] {
        for (_, amount) in status.at(list).entries() {
            amount.quantity(causes);
        }
    }
    for (_, state) in status.at("allocatedResourceStatuses").entries() {
        state.one_of(RESIZING, causes);
    }
}

/// The annotation that named the class before there was a field for it. It counts before the field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim or volume (`GetPersistentVolumeClaimClass`).
pub fn class_of(object: &Value) -> &str {
    let annotated = object.at(&["metadata", "annotations", CLASS_ANNOTATION]).as_str();
    annotated.unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

/// Whether a claim says which class it wants, if only that it wants none (`PersistentVolumeClaimHasClass`).
pub fn has_class(claim: &Value) -> bool {
    claim.at(&["metadata", "annotations", CLASS_ANNOTATION]).is_string() || !claim["spec"]["storageClassName"].is_null()
}

fn usage(claim: &Value, usage: &mut Usage) {
    count(usage, KIND.plural);
    let storage = Quantity::from_json(claim.at(&["spec", "resources", "requests", "storage"])).unwrap_or_default();
    add(usage, "requests.storage", storage);
    let class = class_of(claim);
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        add(usage, format!("{prefix}/requests.storage"), storage);
        count(usage, format!("{prefix}/persistentvolumeclaims"));
    }
}

const COLUMNS: &[Column] = &[
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

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
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
        class_of(o).into(),
        attributes_class(o),
        age(o, now),
        o.str_at(&["spec", "volumeMode"]).into(),
    ]
}
