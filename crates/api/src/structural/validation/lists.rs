//! Items of sets and of lists by key must differ (upstream's `schema/listtype`).

use std::collections::HashMap;

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

use crate::structural::correlation::member;
use crate::structural::{LIST_KEYS, LIST_TYPE};

/// Each item that is there a second time is told of, once.
pub(super) fn duplicates(schema: &Value, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    match v {
        Value::Array(list) => {
            let keys = schema.strings_at(&[LIST_KEYS]);
            let is_unique = match schema[LIST_TYPE].as_str() {
                Some("map") => Some(true),
                Some("set") => Some(false),
                _ => None,
            };
            if let Some(is_map) = is_unique {
                let mut seen: HashMap<String, usize> = HashMap::with_capacity(list.len());
                for (i, item) in list.iter().enumerate() {
                    let id = if is_map { identity(&keys, item) } else { item.clone() };
                    let times = seen.entry(canonical(&id)).or_default();
                    *times += 1;
                    if *times == 2 {
                        causes.push(Cause::duplicate(format!("{path}[{i}]"), &id));
                    }
                }
            }
            for (i, item) in list.iter().enumerate() {
                duplicates(&schema["items"], item, &format!("{path}[{i}]"), causes);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let Some(of) = member(schema, key) else { continue };
                let is_property = schema["properties"].get(key).is_some();
                let at = match (path, is_property) {
                    ("", true) => key.clone(),
                    (_, true) => format!("{path}.{key}"),
                    (_, false) => format!("{path}[{key}]"),
                };
                duplicates(of, value, &at, causes);
            }
        }
        _ => {}
    }
}

fn identity(keys: &[&str], item: &Value) -> Value {
    let present = keys.iter().filter_map(|key| Some(((*key).to_string(), item.get(*key)?.clone())));
    present.collect::<serde_json::Map<_, _>>().into()
}

/// One text for each value, whatever the order of its members.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<String> = map.iter().map(|(key, v)| format!("{key:?}:{}", canonical(v))).collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}
