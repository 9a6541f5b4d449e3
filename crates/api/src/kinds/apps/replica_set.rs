//! `ReplicaSet`: a number of equal Pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{GROUP, check_workload};
use crate::columns::{AGE, Column, NAME, Printer, age, containers, int, name, number, selector, wide};
use crate::defaults::{default, set, spec};
use crate::kinds::pod_template::default_template;
use crate::kinds::{ALL, Absent, Kind, SelectedField, Strategy, Subresource};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["rs"],
    categories: ALL,
    has_generation: true,
    selectable: &["status.replicas"],
    subresources: &[Subresource::Status, Subresource::Scale],
    strategy: Strategy {
        defaults,
        validate: |object, old, causes| check_workload(object, old, &[], causes),
        validate_status: Some(|object, _, causes| {
            let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            status::replicas(&status::of(object), &counts, causes);
        }),
        printer: Printer { columns: COLUMNS, row },
        pod_template: super::template,
        selected: &[SelectedField::new("status.replicas", "status.replicas", Absent::Is("0"))],
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ReplicaSet", "replicasets")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_template(spec.get_mut("template"));
    default(spec, "replicas", || json!(1));
    set(object.as_object_mut(), "status", json!({"replicas": 0}));
}

/// Those of a ReplicationController, too.
pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    row_of(o, now, selector(&o["spec"]["selector"]))
}

/// The cells of [`COLUMNS`], the selector's as it is given.
pub(crate) fn row_of(o: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let (names, images) = containers(&o["spec"]["template"]);
    vec![
        name(o),
        json!(int(o, &["spec", "replicas"])),
        json!(int(o, &["status", "replicas"])),
        json!(int(o, &["status", "readyReplicas"])),
        age(o, now),
        names,
        images,
        selector,
    ]
}
