//! `CSINode`: the storage drivers of a node.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, number};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        updates_name_version: true,
        printer: Printer { columns: &[NAME, number("Drivers"), AGE], row },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "CSINode", "csinodes")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let drivers = object.at("spec").at("drivers");
    drivers.unique("name", causes);
    for driver in drivers.items() {
        driver.at("name").require("", causes);
        driver.at("nodeID").require("", causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(o.array_at(&["spec", "drivers"]).len()), age(o, now)]
}
