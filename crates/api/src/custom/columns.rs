//! What `kubectl get` prints of a custom kind: `additionalPrinterColumns`.

use apimachinery::jsonpath::{self, Path};
use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};

#[derive(Debug)]
struct Column {
    definition: Value,
    /// None for a path that can't be read: its cells stay empty.
    path: Option<Path>,
    kind: String,
}

/// The columns of a version of a custom kind.
#[derive(Debug)]
pub struct Columns(Vec<Column>);

impl Columns {
    /// Reads `additionalPrinterColumns`; without any, the age alone is a column.
    pub fn read(columns: &[Value]) -> Self {
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "How long ago the object was created"});
        let columns = if columns.is_empty() { std::slice::from_ref(&age) } else { columns };
        let described = |c: &Value| match c.str_at(&["description"]) {
            "" => format!("Custom resource definition column (in JSONPath format): {}", c.str_at(&["jsonPath"])),
            text => text.into(),
        };
        let read = |c: &Value| Column {
            definition: json!({"name": c["name"], "type": c["type"], "format": c.str_at(&["format"]),
                "description": described(c), "priority": c["priority"].as_i64().unwrap_or(0)}),
            path: Path::parse(c.str_at(&["jsonPath"])).ok(),
            kind: c.str_at(&["type"]).into(),
        };
        Columns(columns.iter().map(read).collect())
    }

    /// A `meta.k8s.io/v1` Table of objects. `include` makes what each row holds of its object, `metadata` is that of the list.
    pub fn table(&self, objects: &[Value], include: impl Fn(&Value) -> Value, metadata: Value) -> Value {
        let now = apimachinery::clock::now();
        let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace"});
        let definitions: Vec<&Value> = std::iter::once(&name).chain(self.0.iter().map(|c| &c.definition)).collect();
        let rows: Vec<Value> = objects
            .iter()
            .map(|o| {
                let mut cells = vec![Value::from(o.name())];
                cells.extend(self.0.iter().map(|c| c.cell(o, now)));
                json!({"cells": cells, "object": include(o)})
            })
            .collect();
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
               "columnDefinitions": definitions, "rows": rows})
    }
}

impl Column {
    /// The first value that the path leads to, if it has the column's type (upstream's `tableconvertor`).
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().and_then(|path| path.find(object, true).ok()).unwrap_or_default();
        let Some(first) = found.first() else { return Value::Null };
        match self.kind.as_str() {
            "string" => jsonpath::text(first).into(),
            "integer" => match (first.as_i64(), first.as_f64()) {
                (Some(whole), _) => whole.into(),
                (None, Some(number)) => (number as i64).into(),
                (None, None) => Value::Null,
            },
            "number" if first.is_number() => (*first).clone(),
            "boolean" if first.is_boolean() => (*first).clone(),
            "date" => match first.as_str() {
                Some("") => "<unknown>".into(),
                Some(text) if text.parse::<Timestamp>().is_err() => "<invalid>".into(),
                Some(text) => clock::age(text, now).into(),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}
