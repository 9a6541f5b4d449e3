//! `ControllerRevision`: a past template of a StatefulSet or DaemonSet.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, int, name, number, or_none, text};
use crate::kinds::{Kind, Strategy};
use crate::validate::immutable;

pub static KIND: Kind = Kind {
    strategy: Strategy {
        validate: |object, old, causes| immutable(object, old, &["data"], "data", causes),
        printer: Printer { columns: &[NAME, text("Controller"), number("Revision"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ControllerRevision", "controllerrevisions")
};

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let owner = o.array_at(&["metadata", "ownerReferences"]).iter().find(|r| r["controller"] == true);
    let owner = owner.map(|r| {
        let group = r.str_at(&["apiVersion"]).split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
        format!("{}{group}/{}", r.str_at(&["kind"]).to_ascii_lowercase(), r.str_at(&["name"]))
    });
    vec![name(o), or_none(&owner.unwrap_or_default()), json!(int(o, &["revision"])), age(o, now)]
}
