//! `ResourceClaim`: what asks for devices.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::validate::claim;
use super::{GROUP, default_claim};
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::defaults::spec;
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::field::Causes;
use crate::validate::immutable;

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy {
        printer: Printer { columns: &[NAME, text("State"), AGE], row },
        defaults: |object| {
            if let Some(claim) = spec(object) {
                default_claim(claim);
            }
        },
        validate,
        status_keeps: StatusKeeps::LabelsAndAnnotationsToo,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ResourceClaim", "resourceclaims")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    immutable(object, old, &["spec"], "spec", causes);
    if old.is_none() {
        claim(&object["spec"], "spec", causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let allocated = !o["status"]["allocation"].is_null();
    let states = [
        ("deleted", o.is_deleting()),
        ("pending", !allocated && !o.is_deleting()),
        ("allocated", allocated),
        ("reserved", allocated && !o.array_at(&["status", "reservedFor"]).is_empty()),
    ];
    let states: Vec<&str> = states.into_iter().filter(|(_, is)| *is).map(|(state, _)| state).collect();
    vec![name(o), states.join(",").into(), age(o, now)]
}
