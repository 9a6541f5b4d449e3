//! Pruning, defaulting and nulls by a structural schema (KEP-1111), and the metadata of resources within resources.

use serde_json::{Map, Value};

use crate::schema::{self, Findings};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Whether the values are whole objects (`x-kubernetes-embedded-resource`).
pub fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

/// Whether a member belongs to every object of the API, whatever the schema says.
fn is_identity(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind" | "metadata")
}

/// The schema of a member of an object: of its property, or of the values of a map.
fn of_member<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
    let property = schema["properties"].as_object().and_then(|p| p.get(key));
    property.or_else(|| schema.get("additionalProperties").filter(|of| of.is_object()))
}

fn items(schema: &Value) -> Option<&Value> {
    schema.get("items").filter(|of| of.is_object())
}

/// Removes the members that the schema doesn't have, and notes their paths.
pub fn prune(schema: &Value, value: &mut Value, path: &str, is_object: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let embedded = is_object || is_embedded(schema);
            let keeps = keeps_unknown(schema) || schema["additionalProperties"] == true;
            let mut gone = Vec::new();
            for (key, member) in map.iter_mut() {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match of_member(schema, key) {
                    _ if embedded && is_identity(key) => {}
                    Some(of) => prune(of, member, &at, false, unknown),
                    None if keeps => {}
                    None => gone.push((key.clone(), at)),
                }
            }
            for (key, at) in gone {
                map.remove(&key);
                unknown.push(at);
            }
        }
        Value::Array(list) => {
            let Some(of) = items(schema) else { return };
            for (i, item) in list.iter_mut().enumerate() {
                prune(of, item, &format!("{path}[{i}]"), false, unknown);
            }
        }
        _ => {}
    }
}

/// Makes of the metadata of resources within the resource what that of every object is: without unknown fields, and of
/// the right types (upstream's `schema/objectmeta`).
pub fn coerce(schema: &Value, value: &mut Value, path: &str, is_root: bool, findings: &mut Findings) {
    match value {
        Value::Object(map) => {
            if !is_root && is_embedded(schema) {
                coerce_identity(map, path, findings);
            }
            for (key, member) in map.iter_mut() {
                if let Some(of) = of_member(schema, key) {
                    coerce(of, member, &join(path, key), false, findings);
                }
            }
        }
        Value::Array(list) => {
            let Some(of) = items(schema) else { return };
            for (i, item) in list.iter_mut().enumerate() {
                coerce(of, item, &format!("{path}[{i}]"), false, findings);
            }
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

fn coerce_identity(map: &mut Map<String, Value>, path: &str, findings: &mut Findings) {
    for key in ["apiVersion", "kind"] {
        if map.get(key).is_some_and(|value| !value.is_string()) {
            findings.mismatched.push(format!("{}: Invalid value: {}: must be a string", join(path, key), map[key]));
        }
    }
    let Some(metadata) = map.get_mut("metadata") else { return };
    let at = join(path, "metadata");
    let found = schema::types().check(OBJECT_META, metadata);
    findings.unknown.extend(found.unknown.into_iter().map(|field| format!("{at}.{field}")));
    findings.mismatched.extend(found.mismatched.into_iter().map(|why| format!("{at}: {why}")));
}

/// Removes nulls that are neither allowed nor replaced by a default, as decoding does.
pub fn drop_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, member| {
                let of = of_member(schema, key);
                !(member.is_null() && of.is_some_and(|of| !is_nullable(of) && of.get("default").is_none()))
            });
            for (key, member) in map.iter_mut() {
                if let Some(of) = of_member(schema, key) {
                    drop_nulls(of, member);
                }
            }
        }
        Value::Array(list) => {
            if let Some(of) = items(schema) {
                list.iter_mut().for_each(|item| drop_nulls(of, item));
            }
        }
        _ => {}
    }
}

fn is_nullable(schema: &Value) -> bool {
    schema["nullable"] == true
}

/// Whether a schema has defaults at all.
pub fn has_defaults(schema: &Value) -> bool {
    let below = schema["properties"].as_object().into_iter().flatten().map(|(_, of)| of);
    let others = ["items", "additionalProperties"].into_iter().filter_map(|part| schema.get(part));
    schema.get("default").is_some() || below.chain(others.filter(|of| of.is_object())).any(has_defaults)
}

/// Fills in the defaults of missing members, and of nulls that aren't allowed.
pub fn apply_defaults(schema: &Value, value: &mut Value) {
    let replace = |of: &Value, value: &mut Value| {
        if value.is_null()
            && !is_nullable(of)
            && let Some(default) = of.get("default")
        {
            *value = default.clone();
        }
    };
    match value {
        Value::Object(map) => {
            for (key, of) in schema["properties"].as_object().into_iter().flatten() {
                if let (None, Some(default)) = (map.get(key), of.get("default")) {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, member) in map.iter_mut() {
                if let Some(of) = of_member(schema, key) {
                    replace(of, member);
                    apply_defaults(of, member);
                }
            }
        }
        Value::Array(list) => {
            let Some(of) = items(schema) else { return };
            for item in list {
                replace(of, item);
                apply_defaults(of, item);
            }
        }
        _ => {}
    }
}
