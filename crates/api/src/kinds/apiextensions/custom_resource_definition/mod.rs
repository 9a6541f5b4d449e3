//! `CustomResourceDefinition`: a kind that somebody adds.

mod approval;
mod names;
mod validate;

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{Column, NAME, Printer, name, text};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy, Subresource};

pub use names::{default, establish};
pub use validate::check;

pub static KIND: Kind = Kind {
    short_names: &["crd", "crds"],
    categories: API_EXTENSIONS,
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        updates_name_version: true,
        defaults: default,
        validate: check,
        printer: Printer { columns: COLUMNS, row },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "CustomResourceDefinition", "customresourcedefinitions")
};

const COLUMNS: &[Column] =
    &[NAME, text("Group"), text("Scope"), text("Versions"), Column { name: "Created At", kind: "date", wide: false }];

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    let served = o.array_at(&["spec", "versions"]).iter().filter(|v| v["served"] == true);
    let versions: Vec<&str> = served.map(|v| v.str_at(&["name"])).collect();
    vec![
        name(o),
        o.str_at(&["spec", "group"]).into(),
        o.str_at(&["spec", "scope"]).into(),
        versions.join(",").into(),
        o.at(&["metadata", "creationTimestamp"]).clone(),
    ]
}
