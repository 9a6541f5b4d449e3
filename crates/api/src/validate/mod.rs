//! What upstream refuses, field by field. Each check appends a [`Cause`]; the API server turns the list into one
//! `Invalid` answer. What is checked of a kind is in its module; here is what the modules share.

pub(crate) mod field;
pub(crate) mod meta;
pub mod signer;
pub(crate) mod status;

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::Value;

pub use meta::{embedded as embedded_metadata, finalizer_warnings, finalizers_are_qualified, metadata};

pub(crate) const IMMUTABLE: &str = "field is immutable";

/// Refuses a change of the field at `path`.
pub(crate) fn immutable(object: &Value, old: Option<&Value>, path: &[&str], field: &str, causes: &mut Vec<Cause>) {
    if let Some(old) = old
        && old.at(path) != object.at(path)
    {
        causes.push(Cause::invalid(field, object.at(path), IMMUTABLE));
    }
}

/// Demands that the field at `path` is one of `allowed`.
pub(crate) fn one_of(object: &Value, path: &[&str], field: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    match object.at(path) {
        Value::Null => causes.push(Cause::required(field, "")),
        value if value.as_str().is_some_and(|v| allowed.contains(&v)) => {}
        value => causes.push(Cause::not_supported(field, value, allowed)),
    }
}

/// Demands an integer of at least zero, if there is one.
pub(crate) fn not_negative(object: &Value, path: &[&str], causes: &mut Vec<Cause>) {
    if object.i64_at(path).is_some_and(|n| n < 0) {
        let field = path.join(".");
        causes.push(Cause::invalid(field, object.at(path), "must be greater than or equal to 0"));
    }
}

/// A port number from 1 to 65535.
pub(crate) fn port_number(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|p| (1..=65535).contains(&p)) {
        causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

/// A port number or the name of one.
pub(crate) fn port_or_name(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match value.as_str() {
        Some(name) => {
            if let Err(why) = names::port_name(name) {
                causes.push(Cause::invalid(field, value, &why));
            }
        }
        None => port_number(value, field, causes),
    }
}
