//! `ConfigMap`: settings as keys and values.

use apimachinery::Cause;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, number};
use crate::kinds::quota::count;
use crate::kinds::{Kind, Strategy};
use crate::validate::field::Causes;

pub static KIND: Kind = Kind {
    short_names: &["cm"],
    strategy: Strategy {
        validate,
        printer: Printer { columns: &[NAME, number("Data"), AGE], row },
        usage: |_, usage| count(usage, KIND.plural),
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ConfigMap", "configmaps")
};

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    data_keys(object, old, &["data", "binaryData"], causes);
}

/// The keys of the maps of a ConfigMap or Secret, how much they hold, and that none changes once they are immutable.
pub(super) fn data_keys(object: &Value, old: Option<&Value>, maps: &[&'static str], causes: &mut Causes) {
    if let ([plain, binary], Some(keys)) = (maps, object["binaryData"].as_object()) {
        for key in keys.keys().filter(|key| object[*plain].get(*key).is_some()) {
            causes.push(Cause::invalid(format!("{binary}[{key}]"), &json!(key), "duplicate of key present in data"));
        }
    }
    for map in maps {
        for key in object[*map].as_object().into_iter().flat_map(|m| m.keys()) {
            let ok = !key.is_empty()
                && key.len() <= 253
                && key != "."
                && key != ".."
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !ok {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(format!("{map}[{key}]"), &json!(key), detail));
            }
        }
        if let Some(old) = old
            && old["immutable"] == true
            && old[*map] != object[*map]
        {
            causes.push(Cause::forbidden(*map, "field is immutable when `immutable` is set"));
        }
    }
    if let Some(old) = old
        && old["immutable"] == true
        && object["immutable"] != true
    {
        causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    // What counts is the bytes that are meant, not how they are written.
    let is_encoded = |map: &str| map == "binaryData" || maps.len() == 1;
    let length = |map: &str, text: &str| {
        if is_encoded(map) { text.trim_end_matches('=').len() * 3 / 4 } else { text.len() }
    };
    let values = |map: &'static str| object[map].as_object().into_iter().flat_map(|m| m.values());
    let size: usize = maps.iter().flat_map(|m| values(m).map(|v| length(m, v.as_str().unwrap_or("")))).sum();
    if size > 1 << 20 {
        let detail = "Too long: may not be more than 1048576 bytes".to_string();
        causes.push(Cause { reason: "FieldValueTooLong", field: String::new(), message: detail });
    }
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let count = |k: &str| o[k].as_object().map_or(0, serde_json::Map::len);
    vec![name(o), json!(count("data") + count("binaryData")), age(o, now)]
}
