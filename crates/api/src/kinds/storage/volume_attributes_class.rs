//! `VolumeAttributesClass`: parameters of volumes that can change.

use serde_json::Value;

use super::GROUP;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    short_names: &["vac"],
    strategy: Strategy { validate, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    object.at("driverName").require("", causes);
    object.at("driverName").immutable(old, causes);
    object.at("parameters").immutable(old, causes);
}
