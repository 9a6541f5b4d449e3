//! Pruning and defaulting by a structural schema (KEP-1111).

use serde_json::{Map, Value};

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Whether a member belongs to every object of the API, whatever the schema says.
fn is_identity(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind" | "metadata")
}

/// Removes the members that the schema doesn't have, and notes their paths.
pub fn prune(schema: &Value, value: &mut Value, path: &str, is_object: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let embedded = is_object || schema["x-kubernetes-embedded-resource"] == true;
            let properties = schema["properties"].as_object();
            let others = &schema["additionalProperties"];
            let keeps = keeps_unknown(schema) || *others == true;
            let mut gone = Vec::new();
            for (key, member) in map.iter_mut() {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match properties.and_then(|p| p.get(key)) {
                    Some(_) if embedded && is_identity(key) => {}
                    Some(of) => prune(of, member, &at, false, unknown),
                    None if others.is_object() => prune(others, member, &at, false, unknown),
                    None if keeps || (embedded && is_identity(key)) => {}
                    None => gone.push((key.clone(), at)),
                }
            }
            for (key, at) in gone {
                map.remove(&key);
                unknown.push(at);
            }
        }
        Value::Array(list) if schema["items"].is_object() => {
            for (i, item) in list.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{i}]"), false, unknown);
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of missing members; a null that isn't allowed counts as missing.
pub fn apply_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, of) in schema["properties"].as_object().into_iter().flatten() {
                default_member(map, key, of);
            }
            let properties = schema["properties"].as_object();
            let others = &schema["additionalProperties"];
            for (key, member) in map.iter_mut() {
                match properties.and_then(|p| p.get(key)) {
                    Some(of) => apply_defaults(of, member),
                    None if others.is_object() => apply_defaults(others, member),
                    None => {}
                }
            }
        }
        Value::Array(list) if schema["items"].is_object() => {
            list.iter_mut().for_each(|item| apply_defaults(&schema["items"], item));
        }
        _ => {}
    }
}

fn default_member(map: &mut Map<String, Value>, key: &str, of: &Value) {
    let nullable = of["nullable"] == true;
    if map.get(key).is_some_and(|v| v.is_null() && !nullable) {
        map.remove(key);
    }
    if let (None, Some(default)) = (map.get(key), of.get("default")) {
        map.insert(key.into(), default.clone());
    }
}
