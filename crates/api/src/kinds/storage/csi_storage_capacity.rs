//! `CSIStorageCapacity`: how much room a class has left where.

use serde_json::Value;

use super::GROUP;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy { validate, ..Strategy::PLAIN },
    ..Kind::namespaced(GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    object.at("storageClassName").require("", causes);
    object.at("storageClassName").immutable(old, causes);
    object.at("nodeTopology").immutable(old, causes);
}
