//! KYAML (KEP-5295): YAML in braces, with texts in double quotes.

use serde_json::Value;

/// A document.
pub fn write(value: &Value) -> String {
    let mut out = String::from("---\n");
    node(&mut out, value, 0);
    out.push('\n');
    out
}

/// Not deeper than values are: what is read is bounded.
fn node(out: &mut String, value: &Value, indent: usize) {
    let inner = indent.saturating_add(2);
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push_str("{\n");
            for (key, value) in map {
                spaces(out, inner);
                out.push_str(&self::key(key));
                out.push_str(": ");
                node(out, value, inner);
                out.push_str(",\n");
            }
            spaces(out, indent);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            // Lists of objects and of lists stand close to their brackets.
            if items.iter().all(|i| i.is_object() || i.is_array()) {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    node(out, item, indent);
                }
                out.push(']');
                return;
            }
            out.push_str("[\n");
            for item in items {
                spaces(out, inner);
                node(out, item, inner);
                out.push_str(",\n");
            }
            spaces(out, indent);
            out.push(']');
        }
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) => string(out, text, indent),
        other => out.push_str(&other.to_string()),
    }
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// A text in double quotes; one of several lines is continued by backslashes.
fn string(out: &mut String, text: &str, indent: usize) {
    let escaped = |text: &str| Value::from(text).to_string();
    let trimmed = text.trim_end_matches('\n');
    if !trimmed.contains('\n') {
        out.push_str(&escaped(text));
        return;
    }
    out.push_str("\"\\\n");
    let parts: Vec<&str> = text.split_inclusive('\n').collect();
    for part in parts {
        spaces(out, indent.saturating_add(2));
        let quoted = escaped(part);
        let inner = quoted.trim_start_matches('"').strip_suffix('"').unwrap_or("").to_string();
        // A space at the begin of a line would be read as indentation.
        out.push_str(if part.starts_with([' ', '\t']) { "\\" } else { " " });
        out.push_str(&inner);
        out.push_str("\\\n");
    }
    spaces(out, indent.saturating_add(2));
    out.push('"');
}

fn key(key: &str) -> String {
    let plain = !key.is_empty()
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let lower = key.to_ascii_lowercase();
    let ambiguous =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"].contains(&lower.as_str());
    if plain && !ambiguous { key.into() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_stand_in_braces() {
        let value = json!({"a": "b", "c": [{"d": 1}, {"e": null}], "f": ["g"], "no": {}});
        let want = "---\n{\n  a: \"b\",\n  c: [{\n    d: 1,\n  }, {\n    e: null,\n  }],\n  f: [\n    \"g\",\n  ],\n  \"no\": {},\n}\n";
        assert_eq!(write(&value), want);
    }
}
