//! Checks of values against OpenAPI schemas (the subset that structural schemas allow), with upstream's messages.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Cause, names};
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Value, json};

use super::formats;

/// How many compiled patterns are kept: they are large, and those of definitions that are gone aren't used again.
const PATTERNS_KEPT: usize = 256;

/// Patterns that were compiled.
static PATTERNS: Mutex<Option<HashMap<String, Option<Arc<Regex>>>>> = Mutex::new(None);

fn pattern(text: &str) -> Option<Arc<Regex>> {
    let mut patterns = PATTERNS.lock();
    let known = patterns.get_or_insert_with(HashMap::new);
    if let Some(found) = known.get(text) {
        return found.clone();
    }
    let compiled = expressions::regular(text).ok().map(Arc::new);
    if known.len() >= PATTERNS_KEPT {
        known.clear();
    }
    known.insert(text.into(), compiled.clone());
    compiled
}

/// Appends what is wrong with an object by its schema.
pub fn check(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    value(schema, object, "", causes);
    embedded(schema, object, "", true, causes);
}

/// Checks a part of an object, at a path of its own.
pub fn check_at(schema: &Value, part: &Value, path: &str, causes: &mut Vec<Cause>) {
    value(schema, part, path, causes);
    embedded(schema, part, path, true, causes);
}

/// What every resource within the resource must have, and what its metadata may not (upstream's `schema/objectmeta`).
fn embedded(schema: &Value, v: &Value, path: &str, is_root: bool, causes: &mut Vec<Cause>) {
    match v {
        Value::Object(map) => {
            if !is_root && super::values::is_embedded(schema) {
                identity(v, path, causes);
            }
            for (key, member) in map {
                if schema["properties"][key].is_object() {
                    let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    embedded(&schema["properties"][key], member, &at, false, causes);
                } else if schema["additionalProperties"].is_object() {
                    embedded(&schema["additionalProperties"], member, &format!("{path}[{key}]"), false, causes);
                }
            }
        }
        Value::Array(list) if schema["items"].is_object() => {
            for (i, item) in list.iter().enumerate() {
                embedded(&schema["items"], item, &format!("{path}[{i}]"), false, causes);
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

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(of: &str, value: &Value) -> bool {
    match of {
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn value(schema: &Value, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    if v.is_null() && schema["nullable"] == true {
        return;
    }
    let body = |text: String| if path.is_empty() { text } else { format!("{path} in body {text}") };
    let of = schema["type"].as_str().unwrap_or("");
    if schema["x-kubernetes-int-or-string"] == true {
        if !(v.is_string() || v.is_i64() || v.is_u64()) {
            let text = body(format!("must be of type integer or string: {:?}", type_name(v)));
            causes.push(Cause::type_invalid(path, &json!(type_name(v)), &text));
            return;
        }
    } else if !of.is_empty() && !has_type(of, v) {
        let cause =
            Cause::type_invalid(path, &json!(type_name(v)), &body(format!("must be of type {of}: {:?}", type_name(v))));
        causes.push(cause);
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(v)
    {
        let texts: Vec<String> = allowed.iter().map(|a| a.as_str().map_or(a.to_string(), String::from)).collect();
        causes.push(Cause::not_supported(path, v, &texts.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    match v {
        Value::Number(_) => number(schema, v, path, causes),
        Value::String(text) => string(schema, text, v, path, causes),
        Value::Array(list) => array(schema, list, v, path, causes),
        Value::Object(_) => object(schema, v, path, causes),
        _ => {}
    }
    combinations(schema, v, path, causes);
}

fn number(schema: &Value, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(n) = v.as_f64() else { return };
    let mut invalid = |text: String| causes.push(Cause::invalid(path, v, &format!("{path} in body {text}")));
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if n < least || (exclusive && n == least) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            invalid(format!("should be greater than{or_equal} {}", schema["minimum"]));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if n > most || (exclusive && n == most) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            invalid(format!("should be less than{or_equal} {}", schema["maximum"]));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64()
        && step > 0.0
        && (n / step).fract().abs() > 1e-9
    {
        invalid(format!("should be a multiple of {}", schema["multipleOf"]));
    }
}

fn string(schema: &Value, text: &str, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(least) = schema["minLength"].as_u64().filter(|n| length < *n) {
        causes.push(Cause::invalid(path, v, &format!("{path} in body should be at least {least} chars long")));
    }
    if let Some(most) = schema["maxLength"].as_u64().filter(|n| length > *n) {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: path.into(),
            message: format!("Too long: may not be more than {most} bytes"),
        });
    }
    if let Some(wanted) = schema["pattern"].as_str()
        && pattern(wanted).is_some_and(|p| !p.is_match(text))
    {
        causes.push(Cause::invalid(path, v, &format!("{path} in body should match '{wanted}'")));
    }
    let format = schema["format"].as_str().unwrap_or("");
    if !has_format(format, text) {
        causes.push(Cause::type_invalid(path, v, &format!("{path} in body must be of type {format}: {text:?}")));
    }
}

/// Formats that are known here are checked; others are only a hint.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => formats::is_duration(text),
        "rgbcolor" => formats::is_rgb(text),
        "ssn" => formats::is_ssn(text),
        "isbn" => formats::is_isbn(text, 10) || formats::is_isbn(text, 13),
        "isbn10" => formats::is_isbn(text, 10),
        "isbn13" => formats::is_isbn(text, 13),
        "creditcard" => formats::is_card(text),
        "ipv4" => matches!(text.parse(), Ok(IpAddr::V4(_))),
        "ipv6" => matches!(text.parse(), Ok(IpAddr::V6(_))),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uri" => text.starts_with('/') || url_like(text),
        "hostname" => is_hostname(text),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !user.contains(char::is_whitespace) && is_hostname(host)),
        "mac" => is_mac(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|c| c.is_ascii_hexdigit())
        }
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|c| c.is_ascii_hexdigit()),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "k8s-short-name" => names::dns1123_label(text).is_ok(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_ok(),
        _ => true,
    }
}

/// An absolute URL: a scheme, and something after it.
fn url_like(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme);
    good && !rest.is_empty() && !text.contains(|c: char| c == ' ' || c.is_control())
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.chars().all(is_part)
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

/// Six or more bytes, with colons, dashes or dots between them (Go's `net.ParseMAC`).
fn is_mac(text: &str) -> bool {
    let of = |between: char, digits: usize| {
        let parts: Vec<&str> = text.split(between).collect();
        let bytes = parts.len() * digits / 2;
        let is_hex = |part: &&str| part.len() == digits && part.bytes().all(|c| c.is_ascii_hexdigit());
        matches!(bytes, 6 | 8 | 20) && parts.iter().all(is_hex)
    };
    of(':', 2) || of('-', 2) || of('.', 4)
}

/// With or without its dashes.
fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'-').collect();
    let is_whole = (lengths == [8, 4, 4, 4, 12] || lengths == [32]) && digits.iter().all(u8::is_ascii_hexdigit);
    is_whole && version.is_none_or(|version| digits.get(12) == Some(&version))
}

fn array(schema: &Value, list: &[Value], v: &Value, path: &str, causes: &mut Vec<Cause>) {
    let count = list.len() as u64;
    if let Some(least) = schema["minItems"].as_u64().filter(|n| count < *n) {
        causes.push(Cause::invalid(path, v, &format!("{path} in body should have at least {least} items")));
    }
    if let Some(most) = schema["maxItems"].as_u64().filter(|n| count > *n) {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            field: path.into(),
            message: format!("Too many: {count}: must have at most {most} items"),
        });
    }
    duplicates(schema, list, path, causes);
    if schema["items"].is_object() {
        for (i, item) in list.iter().enumerate() {
            value(&schema["items"], item, &format!("{path}[{i}]"), causes);
        }
    }
}

/// Items of sets and lists by key must differ.
fn duplicates(schema: &Value, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let keys: Vec<&str> =
        schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let identity = |item: &Value| -> Value {
        match schema["x-kubernetes-list-type"].as_str() {
            Some("map") => {
                keys.iter().map(|k| ((*k).to_string(), item[*k].clone())).collect::<serde_json::Map<_, _>>().into()
            }
            _ => item.clone(),
        }
    };
    let unique =
        schema["uniqueItems"] == true || matches!(schema["x-kubernetes-list-type"].as_str(), Some("set" | "map"));
    if !unique {
        return;
    }
    let mut seen = HashSet::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let id = identity(item);
        if !seen.insert(canonical(&id)) {
            causes.push(Cause::duplicate(format!("{path}[{i}]"), &id));
        }
    }
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

fn object(schema: &Value, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(map) = v.as_object() else { return };
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(key) {
            causes.push(Cause::required(join(key), ""));
        }
    }
    let count = map.len() as u64;
    if let Some(least) = schema["minProperties"].as_u64().filter(|n| count < *n) {
        causes.push(Cause::invalid(path, v, &format!("{path} in body should have at least {least} properties")));
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|n| count > *n) {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            field: path.into(),
            message: format!("Too many: {count}: must have at most {most} items"),
        });
    }
    for (key, member) in map {
        if schema["properties"][key].is_object() {
            value(&schema["properties"][key], member, &join(key), causes);
        } else if schema["additionalProperties"].is_object() {
            value(&schema["additionalProperties"], member, &join(key), causes);
        }
    }
}

fn combinations(schema: &Value, v: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fits = |of: &Value| {
        let mut found = Vec::new();
        value(of, v, path, &mut found);
        found.is_empty()
    };
    let parts = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
    for of in parts("allOf") {
        value(of, v, path, causes);
    }
    let mut invalid = |text: &str| {
        let text = if path.is_empty() { text.to_string() } else { format!("{path} in body {text}") };
        causes.push(Cause::invalid(path, v, &text));
    };
    if !parts("anyOf").is_empty() && !parts("anyOf").iter().any(fits) {
        invalid("must validate at least one schema (anyOf)");
    }
    if !parts("oneOf").is_empty() && parts("oneOf").iter().filter(|of| fits(of)).count() != 1 {
        invalid("must validate one and only one schema (oneOf)");
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        invalid("must not validate the schema (not)");
    }
}
