//! What upstream fills in where a manifest is silent. The result is visible in `kubectl get -o yaml`, so it must be
//! the same, field by field. What a kind fills in is in its module; here are the tools that the modules share.

use serde_json::{Map, Value, json};

/// Sets `key` unless it is there.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.into(), value());
    }
}

/// Sets `key` unless there is a text: for fields that are plain texts in Go, where "" is what isn't said.
pub(crate) fn default_text(map: &mut Map<String, Value>, key: &str, value: &str) {
    if map.get(key).is_none_or(|v| v.is_null() || v == "") {
        map.insert(key.into(), value.into());
    }
}

/// Sets `key` unless there is a number other than 0: for fields that are plain numbers in Go.
pub(crate) fn default_number(map: &mut Map<String, Value>, key: &str, value: i64) {
    if map.get(key).is_none_or(|v| v.is_null() || *v == 0) {
        map.insert(key.into(), value.into());
    }
}

/// Sets `key` unless there is something in it.
pub(crate) fn default_list(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if map.get(key).is_none_or(|v| v.as_array().is_none_or(Vec::is_empty)) {
        map.insert(key.into(), value());
    }
}

pub(crate) fn set(map: Option<&mut Map<String, Value>>, key: &str, value: Value) {
    if let Some(map) = map {
        default(map, key, || value);
    }
}

/// The object at `key`, if there is one.
pub(crate) fn child<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(key)?.as_object_mut()
}

/// The objects of the list at `key`.
pub(crate) fn items<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

pub(crate) fn spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    default(map, "spec", || json!({}));
    child(map, "spec")
}
