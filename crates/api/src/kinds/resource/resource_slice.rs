//! `ResourceSlice`: the devices of a node.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, default_taint};
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::defaults::{items, spec};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    has_generation: true,
    selectable: &["spec.nodeName", "spec.driver"],
    strategy: Strategy {
        printer: Printer { columns: &[NAME, text("Node"), text("Driver"), text("Pool"), AGE], row },
        defaults: |object| {
            let Some(spec) = spec(object) else { return };
            items(spec, "devices").for_each(|device| items(device, "taints").for_each(default_taint));
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ResourceSlice", "resourceslices")
};

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = |path: &[&str]| Value::from(o.at(&["spec"]).str_at(path));
    vec![name(o), of(&["nodeName"]), of(&["driver"]), of(&["pool", "name"]), age(o, now)]
}
