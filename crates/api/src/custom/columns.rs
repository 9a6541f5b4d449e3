//! What `kubectl get` prints of a custom kind: `additionalPrinterColumns`.

use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::{Value, json};
use serde_json_path::JsonPath;

#[derive(Debug)]
struct Column {
    definition: Value,
    /// None for a path that can't be read: its cells stay empty.
    path: Option<JsonPath>,
    kind: String,
}

#[derive(Debug)]
pub struct Columns(Vec<Column>);

impl Columns {
    pub fn read(columns: &[Value]) -> Self {
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "How long ago the object was created"});
        let columns = if columns.is_empty() { std::slice::from_ref(&age) } else { columns };
        let read = |c: &Value| Column {
            definition: json!({"name": c["name"], "type": c["type"], "format": c.str_at(&["format"]),
                "description": c.str_at(&["description"]), "priority": c["priority"].as_i64().unwrap_or(0)}),
            // kubectl's paths are JSONPath (RFC 9535) without the root.
            path: JsonPath::parse(&format!("${}", c.str_at(&["jsonPath"]))).ok(),
            kind: c.str_at(&["type"]).into(),
        };
        Columns(columns.iter().map(read).collect())
    }

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
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found: Vec<&Value> = self.path.iter().flat_map(|p| p.query(object).all()).collect();
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        match (self.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [first, ..]) => first.as_str().map_or(Value::Null, |t| clock::age(t, now).into()),
            ("integer" | "number" | "boolean", [first, ..]) => (*first).clone(),
            (_, [one]) => text(one).into(),
            (_, many) => many.iter().map(|v| text(v)).collect::<Vec<_>>().join(",").into(),
        }
    }
}
