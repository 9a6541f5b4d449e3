//! Checks of values against OpenAPI schemas (the subset that structural schemas allow), as upstream's validator makes them
//! (`kube-openapi/pkg/validation/validate`), in its order and with its messages.
//!
//! What hasn't changed since the object was stored isn't judged anew (KEP-4008): the faults of a value that is the same as
//! before are forgotten, whole lists and objects included. Embedded metadata and sets have rules of their own for that.

mod combinations;
mod embedded;
mod lists;
mod numbers;
mod texts;

use apimachinery::Cause;
use serde_json::{Value, json};

use super::correlation::{Keyed, same};
use super::{INT_OR_STRING, formats};

/// What is wrong with a value that replaces `old`. Paths begin at `base`, or at the object; messages are about the value alone.
pub fn check(schema: &Value, v: &Value, old: Option<&Value>, base: Option<&str>) -> Vec<Cause> {
    let place = |field: String| match (base, field.is_empty()) {
        (None, true) => "<nil>".to_string(),
        (None, false) => field,
        (Some(base), true) => base.to_string(),
        (Some(base), false) => format!("{base}.{field}"),
    };
    let report = value(schema, v, old, "");
    report.causes.into_iter().map(|cause| Cause { field: place(cause.field), ..cause }).collect()
}

/// What is wrong with the resources within an object. It makes no difference whether they are new.
pub fn embedded(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    embedded::check(schema, object, "", true, causes);
}

/// The same of a part of an object.
pub fn embedded_at(schema: &Value, part: &Value, path: &str, causes: &mut Vec<Cause>) {
    embedded::check(schema, part, path, true, causes);
}

/// Items that are twice in a set, or have the keys of another. An object that had some may have more.
pub fn duplicates(schema: &Value, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let mut before = Vec::new();
    old.iter().for_each(|old| lists::duplicates(schema, old, "", &mut before));
    if before.is_empty() {
        lists::duplicates(schema, object, "", causes);
    }
}

/// What is wrong with a value, and how much of its schema was looked at: of schemas of which none fits, the one that fits best is told of.
#[derive(Default)]
struct Report {
    causes: Vec<Cause>,
    matches: usize,
}

impl Report {
    fn is_valid(&self) -> bool {
        self.causes.is_empty()
    }

    fn add(&mut self, other: Report) {
        self.causes.extend(other.causes);
        self.matches += other.matches;
    }

    /// A part of the schema that has something to say of the value.
    fn part(&mut self, report: Report) {
        self.add(report);
        self.matches += 1;
    }

    fn invalid(&mut self, path: &str, value: &Value, text: &str) {
        self.causes.push(Cause::invalid(path, value, &format!("{path} in body {text}")));
    }

    /// A fault that upstream tells without its place.
    fn placeless(&mut self, text: &str) {
        self.causes.push(Cause::invalid("", &json!(""), text));
    }

    fn too_many(&mut self, path: &str, count: usize, most: u64) {
        let message = format!("Too many: {count}: must have at most {most} items");
        self.causes.push(Cause { reason: "FieldValueTooMany", field: path.into(), message });
    }
}

impl From<Cause> for Report {
    fn from(cause: Cause) -> Self {
        Report { causes: vec![cause], matches: 0 }
    }
}

fn value(schema: &Value, v: &Value, old: Option<&Value>, path: &str) -> Report {
    let mut report = strictly(schema, v, old, path);
    if !report.is_valid() && old.is_some_and(|old| same(schema, v, old)) {
        report.causes.clear();
    }
    report
}

/// The same, but for what is below the value. A null is looked at by its type alone, and by what it may be one of.
fn strictly(schema: &Value, v: &Value, old: Option<&Value>, path: &str) -> Report {
    let mut report = Report::default();
    if v.is_null() {
        report.add(types(schema, v, path));
        report.add(one_of(schema, v, path));
        return report;
    }
    let format = formats::of_schema(schema);
    if !wanted(schema).is_empty() || !format.is_empty() {
        report.part(types(schema, v, path));
    }
    report.part(combinations::check(schema, v, path));
    match v {
        Value::String(text) => {
            report.part(texts::check(schema, text, path));
            if !format.is_empty() {
                report.part(texts::format(format, text, path));
            }
        }
        Value::Number(_) => report.part(numbers::check(schema, format, v, path)),
        Value::Array(list) => report.part(array(schema, list, old, path)),
        _ => {}
    }
    report.part(one_of(schema, v, path));
    if v.is_object() {
        report.part(object(schema, v, old, path));
    }
    report.matches += 1;
    report
}

/// The types that a schema allows.
fn wanted(schema: &Value) -> Vec<&str> {
    if schema[INT_OR_STRING] == true {
        return vec!["integer", "string"];
    }
    schema["type"].as_str().filter(|of| !of.is_empty()).into_iter().collect()
}

/// A value's type and format, as Go's decoder makes them.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(n) if n.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "double"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn types(schema: &Value, v: &Value, path: &str) -> Report {
    let (wanted, format) = (wanted(schema), formats::of_schema(schema));
    let wrong = |wanted: &str, is: &str| {
        let text = format!("{path} in body must be of type {wanted}: {is:?}");
        Report::from(Cause::type_invalid(path, &json!(is), &text))
    };
    let (is, own) = type_of(v);
    let fits = Report { causes: Vec::new(), matches: 1 };
    if v.is_null() {
        return if wanted.is_empty() || schema["nullable"] == true { fits } else { wrong(&wanted.join(","), "null") };
    }
    let is_whole = is == "number" && wanted.contains(&"integer") && v.as_f64().is_some_and(|f| f.fract() == 0.0);
    let is_one = wanted.contains(&is) || is_whole || (is == "integer" && wanted.contains(&"number"));
    let is_plain = v.is_string() || v.is_array();
    if !is_plain && !format.is_empty() && !is_one && own != format {
        return wrong(format, own);
    }
    if is_one || (wanted.is_empty() && is_plain) { fits } else { wrong(&wanted.join(","), is) }
}

fn one_of(schema: &Value, v: &Value, path: &str) -> Report {
    let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.is_empty()) else {
        return Report::default();
    };
    let is_equal = |other: &Value| match (v, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (v, other) => !v.is_null() && v == other,
    };
    if allowed.iter().any(is_equal) {
        return Report::default();
    }
    let texts: Vec<String> = allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), String::from)).collect();
    Cause::not_supported(path, v, &texts.iter().map(String::as_str).collect::<Vec<_>>()).into()
}

fn array(schema: &Value, list: &[Value], old: Option<&Value>, path: &str) -> Report {
    let mut report = Report::default();
    if schema["items"].is_object() {
        let keyed = Keyed::of(schema, old);
        for (i, item) in list.iter().enumerate() {
            report.add(value(&schema["items"], item, keyed.find(item), &format!("{path}[{i}]")));
        }
    }
    let count = list.len() as u64;
    if let Some(least) = schema["minItems"].as_u64().filter(|n| count < *n) {
        report.invalid(path, &json!(count), &format!("should have at least {least} items"));
    }
    if let Some(most) = schema["maxItems"].as_u64().filter(|n| count > *n) {
        report.too_many(path, list.len(), most);
    }
    report.matches += 1;
    report
}

fn object(schema: &Value, v: &Value, old: Option<&Value>, path: &str) -> Report {
    let mut report = Report::default();
    let Some(map) = v.as_object() else { return report };
    let count = map.len() as u64;
    if let Some(least) = schema["minProperties"].as_u64().filter(|n| count < *n) {
        report.invalid(path, &json!(count), &format!("should have at least {least} properties"));
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|n| count > *n) {
        report.too_many(path, map.len(), most);
    }
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    for (key, member) in map {
        if let Some(of) = super::correlation::member(schema, key) {
            report.add(value(of, member, old.and_then(|old| old.get(key)), &join(key)));
        }
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(key) {
            report.causes.push(Cause::required(join(key), ""));
        }
    }
    report
}
