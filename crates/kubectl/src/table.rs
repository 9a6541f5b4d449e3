//! The server's tables as text, in kubectl's layout: columns three spaces apart.

use serde_json::Value;

use crate::discovery::Resource;

/// Prints a table. With `prefix` names carry their type; with `namespaces` there is a column for them.
pub fn print(table: &Value, wide: bool, namespaces: bool, prefix: Option<&Resource>, name: &str) {
    let rows = lines(table, wide, namespaces, prefix);
    if rows.len() <= 1 {
        if prefix.is_none() && name.is_empty() {
            eprintln!("No resources found");
        }
        return;
    }
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("   ").trim_end());
    }
    if prefix.is_some() {
        println!();
    }
}

fn lines(table: &Value, wide: bool, namespaces: bool, prefix: Option<&Resource>) -> Vec<Vec<String>> {
    let empty = Vec::new();
    let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> = (0..columns.len()).filter(|i| wide || columns[*i]["priority"] == 0).collect();
    let mut head: Vec<String> =
        shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or("").to_uppercase()).collect();
    if namespaces {
        head.insert(0, "NAMESPACE".into());
    }
    let mut all = vec![head];
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let cell = |i: usize| match &row["cells"][i] {
            Value::String(text) => text.clone(),
            Value::Null => "<none>".into(),
            other => other.to_string(),
        };
        let mut cells: Vec<String> = shown.iter().map(|i| cell(*i)).collect();
        if let (Some(resource), Some(first)) = (prefix, cells.first_mut()) {
            *first = format!("{}/{first}", resource.qualified());
        }
        if namespaces {
            cells.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or("").to_string());
        }
        all.push(cells);
    }
    all
}
