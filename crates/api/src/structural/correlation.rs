//! Which part of an object's former version a part of it replaces: what hasn't changed isn't judged anew (KEP-4008).

use std::collections::HashMap;

use apimachinery::ObjectExt as _;
use serde_json::Value;

use super::{LIST_KEYS, LIST_TYPE};

/// The items of a list that are found again by their keys; those of other lists can't be.
pub struct Keyed<'a> {
    keys: Vec<&'a str>,
    items: HashMap<String, &'a Value>,
}

impl<'a> Keyed<'a> {
    pub fn of(schema: &'a Value, old: Option<&'a Value>) -> Self {
        let is_map = schema[LIST_TYPE] == "map";
        let keys: Vec<&str> = if is_map { schema.strings_at(&[LIST_KEYS]) } else { Vec::new() };
        let items = old.and_then(Value::as_array).filter(|_| is_map).into_iter().flatten();
        let items = items.map(|item| (Self::identity(&keys, item), item)).collect();
        Keyed { keys, items }
    }

    fn identity(keys: &[&str], item: &Value) -> String {
        keys.iter().map(|k| item[*k].to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn find(&self, item: &Value) -> Option<&'a Value> {
        self.items.get(&Self::identity(&self.keys, item)).copied()
    }
}

/// The schema of a member of an object.
pub fn member<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let property = schema["properties"].get(key).filter(|of| of.is_object());
    property.or_else(|| schema.get("additionalProperties").filter(|of| of.is_object()))
}

/// Whether a value is what it was. The order of lists by key doesn't count; objects with members that their schema doesn't
/// know are never the same (upstream's `CachedDeepEqual`).
pub fn same(schema: &Value, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Array(new), Value::Array(before)) if schema[LIST_TYPE] == "map" => {
            let keyed = Keyed::of(schema, Some(old));
            let is_same = |item: &Value| keyed.find(item).is_some_and(|old| same(&schema["items"], item, old));
            new.len() == before.len() && new.iter().all(is_same)
        }
        (Value::Object(new), Value::Object(old)) => {
            let is_same = |(key, value): (&String, &Value)| {
                member(schema, key).zip(old.get(key)).is_some_and(|(of, old)| same(of, value, old))
            };
            new.len() == old.len() && new.iter().all(is_same)
        }
        (new, old) => new == old,
    }
}
