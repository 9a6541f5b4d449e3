//! `VolumeAttributesClass`: parameters of volumes that can change.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["vac"],
    strategy: Strategy {
        updates_name_version: true,
        printer: Printer { columns: &[NAME, text("DriverName"), AGE], row },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    object.at("driverName").require("", causes);
    object.at("driverName").immutable(old, causes);
    object.at("parameters").immutable(old, causes);
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.str_at(&["driverName"]).into(), age(o, now)]
}
