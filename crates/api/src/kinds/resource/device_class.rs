//! `DeviceClass`: devices that fit the same claims.

use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name};
use crate::defaults::spec;
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    has_generation: true,
    strategy: Strategy {
        printer: Printer { columns: &[NAME, AGE], row },
        defaults: |object| {
            spec(object);
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "DeviceClass", "deviceclasses")
};

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}
