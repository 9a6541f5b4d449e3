//! `RuntimeClass`: which way of running containers a Pod wants.

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        updates_name_version: true,
        made_by_updates: true,
        validate,
        printer: Printer { columns: &[NAME, text("Handler"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "RuntimeClass", "runtimeclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let handler = object.at("handler");
    if handler.require("", causes) {
        handler.is(names::dns1123_label, causes);
    }
    handler.immutable(old, causes);
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.str_at(&["handler"]).into(), age(o, now)]
}
