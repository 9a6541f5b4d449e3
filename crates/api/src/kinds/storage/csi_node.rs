//! `CSINode`: the storage drivers of a node.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, number};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};
use crate::validate::IMMUTABLE;
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        status_keeps: StatusKeeps::All,
        // All that a status says is behind a gate that is off by default (CSIVolumeHealth).
        prepare_update: |object, _, _| {
            if let Some(object) = object.as_object_mut() {
                object.remove("status");
            }
        },
        printer: Printer { columns: &[NAME, number("Drivers"), AGE], row },
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "CSINode", "csinodes")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let drivers = object.at("spec").at("drivers");
    drivers.unique("name", causes);
    for driver in drivers.items() {
        driver.at("name").require("", causes);
        driver.at("nodeID").require("", causes);
        // Of a driver that is there, only how many volumes it takes may change (KEP-4876).
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            if let Some(driver) = driver.as_object_mut() {
                driver.remove("allocatable");
            }
            driver
        };
        let before = old.map(|old| old.array_at(&["spec", "drivers"])).unwrap_or_default();
        if before.iter().any(|old| old["name"] == driver.value["name"] && fixed(old) != fixed(driver.value)) {
            drivers.invalid(IMMUTABLE, causes);
        }
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(o.array_at(&["spec", "drivers"]).len()), age(o, now)]
}
