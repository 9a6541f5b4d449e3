//! `DeviceTaintRule`: taints that an administrator adds to devices (KEP-5055).

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, default_taint};
use crate::columns::{AGE, NAME, Printer, age, name};
use crate::defaults::{child, spec};
use crate::kinds::{Kind, Strategy, Subresource};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        printer: Printer { columns: &[NAME, AGE], row },
        defaults: |object| {
            if let Some(taint) = spec(object).and_then(|spec| child(spec, "taint")) {
                default_taint(taint);
            }
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "DeviceTaintRule", "devicetaintrules")
};

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}
