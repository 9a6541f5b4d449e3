//! Kinds without a description of their own: all fields, with names in words.

use serde_json::Value;

use super::{Text, text};
use crate::print::go_text;

const HIDDEN: &[&str] =
    &[".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];

pub fn describe(out: &mut Text, object: &Value) {
    let metadata = &object["metadata"];
    out.field(0, "Name", text(&metadata["name"]));
    out.field(0, "Namespace", text(&metadata["namespace"]));
    out.labels("Labels", &metadata["labels"]);
    out.annotations("Annotations", &metadata["annotations"]);
    content(out, 0, object, "");
}

/// Not deeper than what was read.
fn content(out: &mut Text, level: usize, object: &Value, prefix: &str) {
    for (field, value) in object.as_object().into_iter().flatten() {
        let path = format!("{prefix}.{field}");
        if HIDDEN.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                out.line(level, &format!("{}:", words(field)));
                content(out, level.saturating_add(1), value, &path);
            }
            Value::Array(items) => {
                out.line(level, &format!("{}:", words(field)));
                for item in items {
                    match item {
                        Value::Object(_) => content(out, level.saturating_add(1), item, &path),
                        other => out.line(level.saturating_add(1), &go_text(other)),
                    }
                }
            }
            other => out.field(level, &words(field), &go_text(other)),
        }
    }
}

/// `apiVersion` is `API Version`.
fn words(field: &str) -> String {
    if !field.chars().all(|c| c.is_alphabetic() || c == '-') {
        return field.into();
    }
    let chars: Vec<char> = field.chars().collect();
    let mut parts: Vec<String> = Vec::new();
    for (i, c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|at| chars[at]);
        let after = chars.get(i.saturating_add(1));
        let begins = match before {
            None => true,
            Some(before) if before == '-' || *c == '-' => true,
            Some(before) if c.is_uppercase() => before.is_lowercase() || after.is_some_and(|a| a.is_lowercase()),
            Some(_) => false,
        };
        if begins {
            parts.push(String::new());
        }
        if let Some(last) = parts.last_mut() {
            last.push(*c);
        }
    }
    let worded = parts.into_iter().map(|part| match part.to_uppercase().as_str() {
        "API" | "URL" | "UID" | "GUID" => part.to_uppercase(),
        _ if part.chars().all(char::is_lowercase) => {
            let mut chars = part.chars();
            chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
        }
        _ => part,
    });
    worded.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_are_words() {
        for (field, want) in
            [("apiVersion", "API Version"), ("uid", "UID"), ("a.b", "a.b"), ("spec", "Spec"), ("podCIDR", "Pod CIDR")]
        {
            assert_eq!(words(field), want);
        }
    }
}
