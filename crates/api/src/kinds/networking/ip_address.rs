//! `IPAddress`: an address that a Service has.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{NAME, Printer, name, or_none, text};
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    short_names: &["ip"],
    selectable: &["spec.parentRef.name"],
    strategy: Strategy { printer: Printer { columns: &[NAME, text("ParentRef")], row }, ..Strategy::PLAIN },
    ..Kind::cluster(GROUP, "v1", "IPAddress", "ipaddresses")
};

fn row(o: &Value, _: Timestamp) -> Vec<Value> {
    let of = &o["spec"]["parentRef"];
    let mut parent = of.str_at(&["resource"]).to_string();
    for (before, part) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
        if !of.str_at(&[part]).is_empty() {
            parent = format!("{parent}{before}{}", of.str_at(&[part]));
        }
    }
    vec![name(o), or_none(&parent)]
}
