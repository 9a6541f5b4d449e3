//! Access to the parts that every object has.

use serde_json::{Map, Value};

/// Reads and writes `metadata` and the like on an object held as JSON.
pub trait ObjectExt {
    /// The string at a path of field names, or "" where anything on the way is missing.
    fn str_at(&self, path: &[&str]) -> &str;
    /// The value at a path of field names, or null where anything on the way is missing.
    fn at(&self, path: &[&str]) -> &Value;
    /// The integer at a path of field names, if there is one.
    fn i64_at(&self, path: &[&str]) -> Option<i64>;
    /// `metadata`, made if it is missing.
    fn meta_mut(&mut self) -> &mut Map<String, Value>;
    /// The object at `key`, made if it is missing or null.
    fn child_mut(&mut self, key: &str) -> &mut Map<String, Value>;
    /// Sets a field of `metadata`.
    fn set_meta(&mut self, key: &str, value: impl Into<Value>);

    /// A string of `metadata`, or "".
    fn meta(&self, key: &str) -> &str {
        self.str_at(&["metadata", key])
    }
    /// `metadata.name`
    fn name(&self) -> &str {
        self.meta("name")
    }
    /// `metadata.namespace`, or "" for kinds without one.
    fn namespace(&self) -> &str {
        self.meta("namespace")
    }
    /// `metadata.uid`
    fn uid(&self) -> &str {
        self.meta("uid")
    }
    /// `metadata.resourceVersion`
    fn resource_version(&self) -> &str {
        self.meta("resourceVersion")
    }
    /// Whether it has a deletion timestamp.
    fn is_deleting(&self) -> bool {
        !self.meta("deletionTimestamp").is_empty()
    }
    /// The strings of an array such as `metadata.finalizers`.
    fn strings_at(&self, path: &[&str]) -> Vec<&str> {
        self.at(path).as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
    /// The array at a path of field names, or an empty one.
    fn array_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }
    /// The labels, as pairs.
    fn labels(&self) -> Vec<(&str, &str)> {
        self.at(&["metadata", "labels"])
            .as_object()
            .map(|m| m.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect())
            .unwrap_or_default()
    }
}

static NULL: Value = Value::Null;

impl ObjectExt for Value {
    fn at(&self, path: &[&str]) -> &Value {
        path.iter().try_fold(self, |v, key| v.get(key)).unwrap_or(&NULL)
    }
    fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).as_str().unwrap_or("")
    }
    fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).as_i64()
    }
    fn meta_mut(&mut self) -> &mut Map<String, Value> {
        self.child_mut("metadata")
    }
    fn child_mut(&mut self, key: &str) -> &mut Map<String, Value> {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        let Value::Object(map) = self else { unreachable!("made an object just above") };
        let child = map.entry(key).or_insert(Value::Null);
        if !child.is_object() {
            *child = Value::Object(Map::new());
        }
        let Value::Object(child) = child else { unreachable!("made an object just above") };
        child
    }
    fn set_meta(&mut self, key: &str, value: impl Into<Value>) {
        self.meta_mut().insert(key.into(), value.into());
    }
}
