//! Resources within the resource (`x-kubernetes-embedded-resource`): what each of them must have, and what its metadata may not
//! (upstream's `schema/objectmeta`).

use apimachinery::{Cause, names};
use serde_json::Value;

use crate::structural::values::is_embedded;

pub(super) fn check(schema: &Value, v: &Value, path: &str, is_root: bool, causes: &mut Vec<Cause>) {
    match v {
        Value::Object(map) => {
            if !is_root && is_embedded(schema) {
                identity(v, path, causes);
            }
            for (key, member) in map {
                if schema["properties"][key].is_object() {
                    let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    check(&schema["properties"][key], member, &at, false, causes);
                } else if schema["additionalProperties"].is_object() {
                    check(&schema["additionalProperties"], member, &format!("{path}[{key}]"), false, causes);
                }
            }
        }
        Value::Array(list) if schema["items"].is_object() => {
            for (i, item) in list.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{i}]"), false, causes);
            }
        }
        _ => {}
    }
}

fn identity(v: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["apiVersion", "kind"] {
        let at = format!("{path}.{key}");
        match &v[key] {
            Value::Null if v.get(key).is_none() => causes.push(Cause::required(at, "")),
            Value::String(text) if text.is_empty() => causes.push(Cause::invalid(at, &v[key], "must not be empty")),
            Value::String(text) if key == "apiVersion" && text.matches('/').count() > 1 => {
                let why = format!("unexpected GroupVersion string: {text}");
                causes.push(Cause::invalid(at, &v[key], &why));
            }
            Value::String(text) if key == "kind" => {
                if let Err(why) = names::dns1035_label(&text.to_lowercase()) {
                    let why = format!("may have mixed case, but should otherwise match: {why}");
                    causes.push(Cause::invalid(at, &v[key], &why));
                }
            }
            Value::String(_) => {}
            other => causes.push(Cause::invalid(at, other, "must be a string")),
        }
    }
    crate::validate::embedded_metadata(&v["metadata"], &format!("{path}.metadata"), causes);
}
