//! `Lease`: who holds something, and since when.

use apimachinery::ObjectExt as _;
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
        printer: Printer { columns: &[NAME, text("Holder"), AGE], row },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Lease", "leases")
};

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    let holder = spec.at("holderIdentity");
    if holder.is_set() && holder.is_empty() {
        holder.invalid("must not be empty", causes);
    }
    spec.at("leaseDurationSeconds").positive(causes);
    spec.at("leaseTransitions").not_negative(causes);
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.str_at(&["spec", "holderIdentity"]).into(), age(o, now)]
}
