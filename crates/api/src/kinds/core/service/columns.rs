//! What `kubectl get services` prints.

use apimachinery::ObjectExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, Column, NAME, Printer, age, balancers, int, name, or_none, pairs, text, wide};

pub const PRINTER: Printer = Printer { columns: COLUMNS, row };

const COLUMNS: &[Column] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let kind = spec.str_at(&["type"]);
    let external = spec.strings_at(&["externalIPs"]);
    let external = match kind {
        "ExternalName" => spec.str_at(&["externalName"]).to_string(),
        "LoadBalancer" => {
            let given = balancers(o);
            let mut all: Vec<&str> = if given.is_empty() { Vec::new() } else { vec![&given] };
            all.extend(external);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => external.join(","),
    };
    let ports: Vec<String> = spec
        .array_at(&["ports"])
        .iter()
        .map(|p| match int(p, &["nodePort"]) {
            0 => format!("{}/{}", int(p, &["port"]), p.str_at(&["protocol"])),
            node => format!("{}:{node}/{}", int(p, &["port"]), p.str_at(&["protocol"])),
        })
        .collect();
    vec![
        name(o),
        kind.into(),
        or_none(spec.str_at(&["clusterIP"])),
        or_none(&external),
        or_none(&ports.join(",")),
        age(o, now),
        pairs(&spec["selector"]),
    ]
}
