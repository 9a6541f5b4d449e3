//! `ServiceCIDR`: a range of addresses for Services.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    strategy: Strategy {
        printer: Printer { columns: &[NAME, text("CIDRs"), AGE], row },
        status_keeps: StatusKeeps::LabelsAndAnnotationsToo,
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ServiceCIDR", "servicecidrs")
};

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.strings_at(&["spec", "cidrs"]).join(",").into(), age(o, now)]
}
