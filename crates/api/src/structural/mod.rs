//! Structural schemas (KEP-1111), in which custom resource definitions say what their objects have: what a schema may say, and what it
//! says of objects. Knows no kind.
//!
//! - [`structure`], [`extensions`]: whether a schema may stand in a definition
//! - [`values`]: pruning, defaults, nulls
//! - [`validation`], [`formats`]: checks of values
//! - [`correlation`]: what a value was before
//! - [`rules`]: the CEL rules of a schema

mod correlation;
mod extensions;
pub mod formats;
mod rules;
pub(crate) mod structure;
pub(crate) mod validation;
mod values;

use serde_json::Value;

pub(crate) use extensions::field_at;
pub(crate) use rules::Rules;
pub(crate) use values::{apply_defaults, coerce, drop_nulls, has_defaults, prune};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const RULES: &str = "x-kubernetes-validations";
/// The members of every object of the API.
const IDENTITY: [&str; 3] = ["metadata", "kind", "apiVersion"];
/// Schemas that say more of a value whose structure stands elsewhere.
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Whether a field is as if it weren't there.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or("")
}

fn has(schema: &Value, key: &str) -> bool {
    !is_zero(&schema[key])
}
