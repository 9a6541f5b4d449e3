//! `CSIStorageCapacity`: how much room a class has left where.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{NAME, Printer, name, text};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        updates_name_version: true,
        printer: Printer { columns: &[NAME, text("StorageClassName"), text("Capacity")], row },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    object.at("storageClassName").require("", causes);
    object.at("storageClassName").immutable(old, causes);
    object.at("nodeTopology").immutable(old, causes);
}

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    let capacity = o["capacity"].as_str().unwrap_or("<unset>");
    vec![name(o), o.str_at(&["storageClassName"]).into(), capacity.into()]
}
