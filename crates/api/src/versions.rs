//! Older versions of built-in kinds: an object is kept in the newest one, and read and written in any.

use serde_json::Value;

use crate::Kind;

/// Brings an object of `kind` (of any version) to `version`, the whole `apiVersion`.
pub fn convert(kind: &Kind, object: &mut Value, version: &str) {
    if object["apiVersion"] == version || !object.is_object() {
        return;
    }
    (kind.strategy.convert)(object, version);
    object["apiVersion"] = version.into();
}
