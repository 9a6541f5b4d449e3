//! What keeps a configuration from being applied: items of a list that can't be told apart.

use std::collections::HashSet;

use apimachinery::fields;
use serde_json::Value;

use super::{member, step};
use crate::schema::{self, ListKind, Type};

pub(super) fn faults(of: &Type, value: &Value, path: &str, found: &mut Vec<String>) {
    let resolved = schema::types().resolve(of);
    match (resolved, value) {
        (Type::Object { .. } | Type::Map { .. }, Value::Object(map)) => {
            for (key, below) in map {
                faults(member(resolved, key), below, &format!("{path}.{key}"), found);
            }
        }
        (Type::List { items, kind, .. }, Value::Array(list)) => {
            let mut seen = HashSet::new();
            for (i, item) in list.iter().enumerate() {
                let at = match item_path(kind, item) {
                    Err(why) => return found.push(format!("{path}: element {i}: {why}")),
                    Ok(None) => format!("{path}[{i}]"),
                    Ok(Some(key)) => {
                        if !seen.insert(key.clone()) {
                            found.push(format!("{path}: duplicate entries for key {key}"));
                        }
                        format!("{path}{key}")
                    }
                };
                faults(items, item, &at, found);
            }
        }
        _ => {}
    }
}

/// How upstream's messages name an item of a list by its keys; nothing for lists that are owned as a whole.
fn item_path(kind: &ListKind, item: &Value) -> Result<Option<String>, String> {
    let why = match (kind, item) {
        (ListKind::Atomic, _) => return Ok(None),
        (ListKind::Set, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (ListKind::Set, Value::Array(_)) => "not supported: associative list with lists as elements",
        (ListKind::Set, Value::Null) => "associative list without keys has an element that's an explicit null",
        (ListKind::Map(_), Value::Null) => "associative list with keys may not have a null element",
        (ListKind::Map(_), Value::Object(_)) | (ListKind::Set, _) => {
            let step = step(kind, item);
            return match (step, kind) {
                (Some(step), _) => Ok(Some(fields::readable(&step))),
                (None, ListKind::Map(keys)) => {
                    let keys: Vec<String> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
                    Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                         values for any key fields)",
                        keys.join(" ")
                    ))
                }
                (None, _) => Ok(None),
            };
        }
        (ListKind::Map(_), _) => "associative list with keys may not have non-map elements",
    };
    Err(why.into())
}
