//! `ComponentStatus`: whether a part of the control plane works. Computed when it is asked for; deprecated.

use apimachinery::ObjectExt as _;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{NAME, Printer, name, text};
use crate::kinds::{Kind, Strategy, Verbs};

pub static KIND: Kind = Kind {
    short_names: &["cs"],
    verbs: Verbs::Read,
    strategy: Strategy {
        printer: Printer { columns: &[NAME, text("Status"), text("Message"), text("Error")], row: |o, _| row(o) },
        deprecation: Some("v1 ComponentStatus is deprecated in v1.19+"),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ComponentStatus", "componentstatuses")
};

fn row(object: &Value) -> Vec<Value> {
    let healthy = object.array_at(&["conditions"]).iter().find(|c| c["type"] == "Healthy");
    let status = match healthy {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Healthy",
        Some(_) => "Unhealthy",
    };
    let said = |key: &str| healthy.map_or("", |condition| condition.str_at(&[key]));
    vec![name(object), json!(status), json!(said("message")), json!(said("error"))]
}
