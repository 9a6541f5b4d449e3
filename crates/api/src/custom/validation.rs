//! Checks of values against OpenAPI schemas (the subset that structural schemas allow), with upstream's messages.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Cause;
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Value, json};

/// Patterns that were compiled; there are as many as definitions have.
static PATTERNS: Mutex<Option<HashMap<String, Option<Arc<Regex>>>>> = Mutex::new(None);

fn pattern(text: &str) -> Option<Arc<Regex>> {
    let mut patterns = PATTERNS.lock();
    let known = patterns.get_or_insert_with(HashMap::new);
    if let Some(found) = known.get(text) {
        return found.clone();
    }
    let compiled = Regex::new(text).ok().map(Arc::new);
    known.insert(text.into(), compiled.clone());
    compiled
}

pub fn check(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    value(schema, object, "", causes);
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
        "duration" => text.parse::<jiff::SignedDuration>().is_ok() || apimachinery::duration::parse(text).is_some(),
        "ipv4" => matches!(text.parse(), Ok(IpAddr::V4(_))),
        "ipv6" => matches!(text.parse(), Ok(IpAddr::V6(_))),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" => {
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
        }
        _ => true,
    }
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
    let mut seen: Vec<Value> = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let id = identity(item);
        if seen.contains(&id) {
            causes.push(Cause::duplicate(format!("{path}[{i}]"), &id));
        }
        seen.push(id);
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
    let embedded = path.is_empty() || schema["x-kubernetes-embedded-resource"] == true;
    for (key, member) in map {
        // The metadata of the object is checked as that of all kinds is.
        if embedded && key == "metadata" {
            continue;
        }
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
