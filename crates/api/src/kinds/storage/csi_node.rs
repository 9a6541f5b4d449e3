//! `CSINode`: the storage drivers of a node.

use serde_json::Value;

use super::GROUP;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind =
    Kind { strategy: Strategy { validate, ..Strategy::PLAIN }, ..Kind::cluster(GROUP, "v1", "CSINode", "csinodes") };

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let drivers = object.at("spec").at("drivers");
    drivers.unique("name", causes);
    for driver in drivers.items() {
        driver.at("name").require("", causes);
        driver.at("nodeID").require("", causes);
    }
}
