//! Tables that the server makes (`meta.k8s.io` Table), as lines with tabs.

use serde_json::{Value, json};

use super::escape;

pub const ACCEPT: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// Which columns are shown.
#[derive(Debug, Default, Clone)]
pub struct Shown {
    pub wide: bool,
    pub namespace: bool,
    pub without_head: bool,
    pub labels: bool,
    pub label_columns: Vec<String>,
    /// `pod/`, in front of names.
    pub prefix: String,
    /// The type of a watch's event, in front.
    pub event: Option<String>,
}

/// The names of the columns.
pub fn head(table: &Value, shown: &Shown) -> String {
    let mut cells = Vec::new();
    if shown.event.is_some() {
        cells.push("EVENT".into());
    }
    if shown.namespace {
        cells.push("NAMESPACE".into());
    }
    for column in columns(table) {
        if is_shown(column, shown) {
            cells.push(column["name"].as_str().unwrap_or("").to_uppercase());
        }
    }
    for label in &shown.label_columns {
        cells.push(label.rsplit('/').next().unwrap_or(label).to_uppercase());
    }
    if shown.labels {
        cells.push("LABELS".into());
    }
    cells.join("\t") + "\n"
}

fn columns(table: &Value) -> &[Value] {
    table["columnDefinitions"].as_array().map_or(&[], Vec::as_slice)
}

fn is_shown(column: &Value, shown: &Shown) -> bool {
    shown.wide || column["priority"].as_i64().unwrap_or(0) == 0
}

/// One row.
pub fn row(table: &Value, row: &Value, shown: &Shown) -> String {
    let mut cells = Vec::new();
    if let Some(event) = &shown.event {
        cells.push(event.clone());
    }
    let metadata = &row["object"]["metadata"];
    if shown.namespace {
        cells.push(metadata["namespace"].as_str().unwrap_or("").into());
    }
    let mut first = true;
    for (column, cell) in columns(table).iter().zip(row["cells"].as_array().into_iter().flatten()) {
        if !is_shown(column, shown) {
            continue;
        }
        let mut text = match cell {
            Value::String(text) => cut(text),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        if first && (column["format"] == "name" || column["name"] == "Name") {
            text = format!("{}{text}", shown.prefix);
        }
        first = false;
        cells.push(text);
    }
    let labels = metadata["labels"].as_object();
    for label in &shown.label_columns {
        let value = labels.and_then(|l| l.get(label)).and_then(Value::as_str);
        cells.push(value.unwrap_or("").into());
    }
    if shown.labels {
        cells.push(label_text(&metadata["labels"], ","));
    }
    cells.join("\t") + "\n"
}

/// `a=b,c=d`
pub fn label_text(labels: &Value, join: &str) -> String {
    let all: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    if all.is_empty() { "<none>".into() } else { all.join(join) }
}

/// A cell has one line.
fn cut(text: &str) -> String {
    match text.find(['\n', '\r', '\u{c}']) {
        Some(at) => format!("{}...", escape(&text[..at])),
        None => escape(text),
    }
}

/// What a server sends that makes no tables, as one: names and ages.
pub fn of_objects(answer: Value) -> Value {
    if answer["kind"] == "Table" {
        return answer;
    }
    let metadata = answer["metadata"].clone();
    let items = match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer],
    };
    let now = apimachinery::clock::now();
    let row = |object: Value| {
        let name = object["metadata"]["name"].clone();
        let age = object["metadata"]["creationTimestamp"]
            .as_str()
            .map_or("<unknown>".into(), |t| apimachinery::clock::age(t, now));
        json!({"cells": [name, age], "object": object})
    };
    let rows: Vec<Value> = items.into_iter().map(row).collect();
    json!({"kind": "Table", "metadata": metadata, "rows": rows, "columnDefinitions": [
        {"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Age", "type": "string", "priority": 0}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_that_are_asked_for() {
        let table = json!({"columnDefinitions": [{"name": "Name", "format": "name", "priority": 0}, {"name": "Node", "priority": 1}]});
        let line = json!({"cells": ["x\ny", "n"], "object": {"metadata": {"namespace": "ns", "labels": {"a/b": "c"}}}});
        let plain = Shown { prefix: "pod/".into(), ..Shown::default() };
        assert_eq!((head(&table, &plain), row(&table, &line, &plain)), ("NAME\n".into(), "pod/x...\n".into()));
        let all = Shown {
            wide: true,
            namespace: true,
            labels: true,
            label_columns: vec!["a/b".into(), "z".into()],
            ..Shown::default()
        };
        assert_eq!(head(&table, &all), "NAMESPACE\tNAME\tNODE\tB\tZ\tLABELS\n");
        assert_eq!(row(&table, &line, &all), "ns\tx...\tn\tc\t\ta/b=c\n");
    }
}
