//! `PriorityClass`: which Pods come first.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, int, name, number, text};
use crate::defaults::set;
use crate::kinds::{Deletion, Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["pc"],
    strategy: Strategy {
        defaults: |object| set(object.as_object_mut(), "preemptionPolicy", json!("PreemptLowerPriority")),
        validate,
        printer: Printer { columns: COLUMNS, row },
        deletion: Deletion {
            refuse: |name| SYSTEM.contains(&name).then_some("this is a system priority class and cannot be deleted"),
            ..Deletion::PLAIN
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "PriorityClass", "priorityclasses")
};

/// Those that every cluster has.
const SYSTEM: [&str; 2] = ["system-cluster-critical", "system-node-critical"];
/// The highest value of a class that users make.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let name = object.at("metadata").at("name");
    let known = ["system-cluster-critical", "system-node-critical"].contains(&name.text());
    if name.text().starts_with("system-") && !known {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        name.forbid(why, causes);
    }
    if !known && object.at("value").value.as_i64().is_some_and(|v| v > HIGHEST_PRIORITY) {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        object.at("value").forbid(&why, causes);
    }
    object.at("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"], causes);
    object.at("value").immutable(old, causes);
    object.at("preemptionPolicy").immutable(old, causes);
}

const COLUMNS: &[Column] = &[NAME, number("Value"), text("Global-Default"), AGE, text("PreemptionPolicy")];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        json!(int(o, &["value"])),
        json!(o["globalDefault"] == true),
        age(o, now),
        o.str_at(&["preemptionPolicy"]).into(),
    ]
}
