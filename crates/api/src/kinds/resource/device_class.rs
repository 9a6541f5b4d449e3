//! `DeviceClass`: devices that fit the same claims.

use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use super::validate::selectors;
use crate::columns::{AGE, NAME, Printer, age, name};
use crate::defaults::spec;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::Causes;

pub static KIND: Kind = Kind {
    has_generation: true,
    strategy: Strategy {
        printer: Printer { columns: &[NAME, AGE], row },
        defaults: |object| {
            spec(object);
        },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "DeviceClass", "deviceclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    // What is stored stays valid.
    if old.is_none_or(|old| old["spec"]["selectors"] != object["spec"]["selectors"]) {
        selectors(&object["spec"]["selectors"], "spec.selectors", causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}
