//! `ResourceClaimTemplate`: claims of devices that are made for each Pod.

use jiff::Timestamp;
use serde_json::Value;

use super::validate::claim;
use super::{GROUP, default_claim};
use crate::columns::{AGE, NAME, Printer, age, name};
use crate::defaults::{child, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::Causes;
use crate::validate::immutable;

pub static KIND: Kind = Kind {
    strategy: Strategy {
        printer: Printer { columns: &[NAME, AGE], row },
        defaults: |object| {
            if let Some(claim) = spec(object).and_then(|spec| child(spec, "spec")) {
                default_claim(claim);
            }
        },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    immutable(object, old, &["spec"], "spec", causes);
    if old.is_none() {
        claim(&object["spec"]["spec"], "spec.spec", causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}
