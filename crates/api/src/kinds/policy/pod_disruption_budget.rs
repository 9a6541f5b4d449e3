//! `PodDisruptionBudget`: how many Pods of a kind may be evicted at once.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, int, name, number, text};
use crate::defaults::set;
use crate::kinds::{Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["pdb"],
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        defaults: |object| set(object.as_object_mut(), "status", json!({})),
        validate,
        validate_status: Some(|object, _, causes| {
            let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
            status::counts(&status::of(object), &counts, causes);
        }),
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "PodDisruptionBudget", "poddisruptionbudgets")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let (least, most) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
    if least.is_set() && most.is_set() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set", causes);
    }
    least.share(true, causes);
    most.share(true, causes);
    spec.at("selector").selector(causes);
    spec.at("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], causes);
}

const COLUMNS: &[Column] = &[NAME, text("Min Available"), text("Max Unavailable"), number("Allowed Disruptions"), AGE];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = |field: &str| match o.at(&["spec", field]) {
        Value::Null => "N/A".to_string(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let allowed = json!(int(o, &["status", "disruptionsAllowed"]));
    vec![name(o), of("minAvailable").into(), of("maxUnavailable").into(), allowed, age(o, now)]
}
