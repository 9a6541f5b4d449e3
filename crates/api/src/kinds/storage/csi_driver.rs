//! `CSIDriver`: how a storage driver wants to be called.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, Column, NAME, Printer, age, boolean, name, or_none, text};
use crate::defaults::{default, default_list, spec};
use crate::kinds::{Kind, Strategy};
use crate::validate::field::{Causes, Field};

pub static KIND: Kind = Kind {
    strategy: Strategy {
        updates_name_version: true,
        printer: Printer { columns: COLUMNS, row },
        defaults,
        validate,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "CSIDriver", "csidrivers")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "attachRequired", || json!(true));
    default(spec, "podInfoOnMount", || json!(false));
    default(spec, "storageCapacity", || json!(false));
    default(spec, "fsGroupPolicy", || json!("ReadWriteOnceWithFSType"));
    default_list(spec, "volumeLifecycleModes", || json!(["Persistent"]));
    default(spec, "requiresRepublish", || json!(false));
    default(spec, "seLinuxMount", || json!(false));
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    spec.at("attachRequired").immutable(old, causes);
    spec.at("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"], causes);
    for mode in spec.at("volumeLifecycleModes").items() {
        mode.one_of(&["Ephemeral", "Persistent"], causes);
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let modes = spec.strings_at(&["volumeLifecycleModes"]).join(",");
    let tokens = match spec["tokenRequests"].as_array() {
        None => "<unset>".to_string(),
        Some(tokens) => tokens.iter().map(|t| t.str_at(&["audience"])).collect::<Vec<_>>().join(","),
    };
    vec![
        name(o),
        json!(spec["attachRequired"] != false),
        json!(spec["podInfoOnMount"] == true),
        json!(spec["storageCapacity"] == true),
        tokens.into(),
        json!(spec["requiresRepublish"] == true),
        or_none(&modes),
        age(o, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    boolean("AttachRequired"),
    boolean("PodInfoOnMount"),
    boolean("StorageCapacity"),
    text("TokenRequests"),
    boolean("RequiresRepublish"),
    text("Modes"),
    AGE,
];
