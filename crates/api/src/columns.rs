//! The columns of `kubectl get`, as upstream prints them for each kind (`meta.k8s.io/v1` Table). Each kind has its columns in its
//! module; here is what the modules share.

use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A column: its title, type, and whether only `-o wide` shows it.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its title, as `kubectl get` prints it.
    pub name: &'static str,
    /// Its type in the OpenAPI sense: `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// Whether only `-o wide` shows it (a priority other than 0).
    pub wide: bool,
}

pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}
pub(crate) const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", wide: false }
}
pub(crate) const NAME: Column = text("Name");
pub(crate) const AGE: Column = text("Age");

/// How a kind is printed.
#[derive(Clone, Copy)]
pub struct Printer {
    /// The columns, in their order.
    pub columns: &'static [Column],
    /// The cells of one object, as many as there are columns.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
}

impl Printer {
    /// What kinds have that have no columns of their own.
    pub const PLAIN: Printer = Printer {
        columns: &[NAME, Column { name: "Created At", kind: "date", wide: false }],
        row: |o, _| vec![name(o), o.at(&["metadata", "creationTimestamp"]).clone()],
    };
}

/// A scale, whatever it is of.
pub const SCALE: Printer = Printer {
    columns: &[NAME, number("Desired"), number("Available"), AGE],
    row: |o, now| {
        vec![name(o), json!(int(o, &["spec", "replicas"])), json!(int(o, &["status", "replicas"])), age(o, now)]
    },
};

pub(crate) fn name(o: &Value) -> Value {
    o.name().into()
}

pub(crate) fn age(o: &Value, now: Timestamp) -> Value {
    clock::age(o.meta("creationTimestamp"), now).into()
}

pub(crate) fn int(o: &Value, path: &[&str]) -> i64 {
    o.i64_at(path).unwrap_or(0)
}

/// `text`, or the filler that upstream prints for nothing.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The first three of a list, and how many more there are; `none` for an empty one (upstream's `listWithMoreString`).
pub(crate) fn shortened(list: &[String], none: &str) -> Value {
    const SHOWN: usize = 3;
    match list {
        [] => none.into(),
        list if list.len() > SHOWN => format!("{} + {} more...", list[..SHOWN].join(","), list.len() - SHOWN).into(),
        list => list.join(",").into(),
    }
}

/// The addresses or names at which a load balancer is reached, each once and in order.
pub(crate) fn balancers(o: &Value) -> String {
    let of = |i: &Value| match i.str_at(&["ip"]) {
        "" => i.str_at(&["hostname"]).to_string(),
        ip => ip.to_string(),
    };
    let set: std::collections::BTreeSet<String> =
        o.array_at(&["status", "loadBalancer", "ingress"]).iter().map(of).collect();
    set.into_iter().filter(|of| !of.is_empty()).collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn pairs(map: &Value) -> Value {
    let parts: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    or_none(&parts.join(","))
}

/// A `metav1.LabelSelector` in kubectl's words.
pub(crate) fn selector(s: &Value) -> Value {
    let mut parts: Vec<String> = s["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    for e in s.array_at(&["matchExpressions"]) {
        let (key, values) = (e.str_at(&["key"]), e.strings_at(&["values"]).join(","));
        parts.push(match e.str_at(&["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    or_none(&parts.join(","))
}

/// Names and images of the containers of a pod template.
pub(crate) fn containers(template: &Value) -> (Value, Value) {
    let list = template.array_at(&["spec", "containers"]);
    let join = |field: &str| list.iter().map(|c| c.str_at(&[field])).collect::<Vec<_>>().join(",");
    (join("name").into(), join("image").into())
}

/// The table of `objects`, each with the cells of its row and what `include` makes of it.
pub fn table(printer: &Printer, objects: &[Value], include: impl Fn(&Value) -> Value, metadata: Value) -> Value {
    let now = apimachinery::clock::now();
    let columns: Vec<Value> = printer
        .columns
        .iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({"name": c.name, "type": c.kind, "format": format, "description": "", "priority": i32::from(c.wide)})
        })
        .collect();
    let rows: Vec<Value> =
        objects.iter().map(|o| json!({"cells": (printer.row)(o, now), "object": include(o)})).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
           "columnDefinitions": columns, "rows": rows})
}
