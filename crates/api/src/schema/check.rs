//! Decoding as Go's typed decoder does it: unknown fields are dropped, null is the zero value, what is empty and isn't
//! written when it is empty is gone, amounts and times are in their canonical form.

use std::collections::HashSet;
use std::fmt;

use apimachinery::quantity::QuantityError;
use apimachinery::{Quantity, clock};
use serde_json::{Map, Value, json};

use super::{Type, Types};

/// How many problems of one object are told (upstream's strict decoder tells of as many), and how long paths may be.
const MAX_REPORTED_FIELDS: usize = 100;
const PATH_BYTES: usize = 1024;

/// What [`Types::check`] found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Paths of fields that the type doesn't have, in upstream's words.
    pub unknown: Vec<String>,
    /// Fields of the wrong type, which can't be decoded at all.
    pub mismatched: Vec<String>,
}

/// Where in an object the walk is. Written out only when there is something to tell.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    /// A key of a map. Upstream's messages about types leave it out.
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, key) | Path::Key(Path::Root, key) => f.write_str(key),
            Path::Field(parent, key) | Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Path<'_> {
    fn text(&self) -> String {
        self.to_string().chars().take(PATH_BYTES).collect()
    }

    /// The fields alone, as Go's decoder names a place.
    fn fields(&self) -> String {
        let (mut names, mut at) = (Vec::new(), self);
        loop {
            at = match at {
                Path::Root => break,
                Path::Field(parent, name) => {
                    names.push(*name);
                    parent
                }
                Path::Key(parent, _) | Path::Item(parent, _) => parent,
            };
        }
        names.reverse();
        names.join(".")
    }
}

/// The struct that holds what is looked at.
#[derive(Clone, Copy, Default)]
struct Holder<'t> {
    name: &'t str,
    omitted: Option<&'t HashSet<&'static str>>,
}

struct Walk<'t> {
    types: &'t Types,
    findings: Findings,
    /// Whether what is empty goes.
    drops: bool,
}

impl Types {
    /// Goes over `object`, which should be of the named type: brings it into the form that decoding into Go's type and
    /// encoding it again would give it, and tells what it found.
    pub fn check(&self, name: &str, object: &mut Value) -> Findings {
        self.go_over(name, object, true)
    }

    /// The same for an applied configuration, in which empty values are said.
    pub fn check_applied(&self, name: &str, object: &mut Value) -> Findings {
        self.go_over(name, object, false)
    }

    fn go_over(&self, name: &str, object: &mut Value, drops: bool) -> Findings {
        let mut walk = Walk { types: self, findings: Findings::default(), drops };
        if let Some((name, of)) = self.types.get_key_value(name) {
            walk.value(of, self.holder(name), object, &Path::Root);
        }
        walk.findings
    }

    fn holder<'t>(&'t self, name: &'t str) -> Holder<'t> {
        Holder { name: name.rsplit('.').next().unwrap_or(name), omitted: self.omitted.get(name) }
    }

    /// What null is in a list or a map, in which it can't be left out.
    fn zero(&self, of: &Type) -> Value {
        match self.resolve(of) {
            Type::Object { .. } | Type::Map { .. } => json!({}),
            Type::List { .. } => json!([]),
            Type::String | Type::Bytes => json!(""),
            Type::Integer { .. } | Type::Number | Type::IntOrString => json!(0),
            Type::Quantity => json!("0"),
            Type::Bool => json!(false),
            Type::Time { .. } | Type::Named(_) | Type::Any => Value::Null,
        }
    }
}

impl<'t> Walk<'t> {
    fn value(&mut self, of: &'t Type, holder: Holder<'t>, value: &mut Value, path: &Path<'_>) {
        match (of, &mut *value) {
            (Type::Named(name), _) => {
                let types = self.types;
                if let Some((name, of)) = types.types.get_key_value(name) {
                    // Only what has fields is a struct of its own.
                    let holder = if matches!(of, Type::Object { .. }) { types.holder(name) } else { holder };
                    self.value(of, holder, value, path);
                }
            }
            (Type::Any, _)
            | (Type::String | Type::IntOrString, Value::String(_))
            | (Type::Number, Value::Number(_))
            | (Type::Bool, Value::Bool(_)) => {}
            // Where null may stay.
            (Type::Time { .. }, Value::Null) => {}
            (Type::Integer { .. } | Type::IntOrString, Value::Number(n)) => {
                let fits = match of {
                    Type::Integer { bits: 64 } => n.is_i64(),
                    _ => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                };
                if !fits {
                    self.mismatch(of, holder, value, path);
                }
            }
            (Type::Quantity, Value::String(_) | Value::Number(_)) => self.amount(value, Quantity::canonical_text),
            (Type::Time { micro }, Value::String(text)) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => *text = if *micro { clock::format_micro(time) } else { clock::format_rfc3339(time) },
                Err(_) => {
                    let text: String = text.chars().take(64).collect();
                    self.tell(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse it"));
                }
            },
            (Type::Bytes, Value::String(text)) => self.bytes(text),
            (Type::List { items: of, .. }, Value::Array(list)) => {
                for (i, item) in list.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = self.types.zero(of);
                    }
                    self.value(of, holder, item, &Path::Item(path, i));
                }
            }
            (Type::Map { values: of, .. }, Value::Object(map)) => {
                for (key, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = self.types.zero(of);
                    }
                    // Lists of resources are maps of amounts.
                    if matches!(self.types.resolve(of), Type::Quantity) && (item.is_string() || item.is_number()) {
                        self.amount(item, Quantity::canonical_resource);
                    } else {
                        self.value(of, holder, item, &Path::Key(path, key));
                    }
                }
            }
            (Type::Object { fields, .. }, Value::Object(map)) => self.object(fields, holder, map, path),
            _ => self.mismatch(of, holder, value, path),
        }
    }

    fn object(
        &mut self,
        fields: &'t [(String, Type)],
        holder: Holder<'t>,
        map: &mut Map<String, Value>,
        path: &Path<'_>,
    ) {
        map.retain(|key, value| {
            let known = fields.iter().any(|(field, _)| field == key);
            if !known && self.findings.unknown.len() < MAX_REPORTED_FIELDS {
                self.findings.unknown.push(Path::Field(path, key).text());
            }
            known && !value.is_null()
        });
        for (key, value) in map.iter_mut() {
            if let Some((_, of)) = fields.iter().find(|(field, _)| field == key) {
                self.value(of, holder, value, &Path::Field(path, key));
            }
        }
        if let (true, Some(omitted)) = (self.drops, holder.omitted) {
            map.retain(|key, value| !(is_zero(value) && omitted.contains(key.as_str())));
        }
    }

    fn amount(&mut self, value: &mut Value, canonical: fn(&str) -> Result<String, QuantityError>) {
        let text = value.as_str().map_or_else(|| value.to_string(), String::from);
        match canonical(&text) {
            Ok(canonical) => *value = canonical.into(),
            Err(why) => self.tell(why.to_string()),
        }
    }

    /// Go's decoder passes over the ends of lines in base64.
    fn bytes(&mut self, text: &mut String) {
        use base64::Engine as _;
        if text.contains(['\r', '\n']) {
            text.retain(|c| c != '\r' && c != '\n');
        }
        if base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).is_err() {
            self.tell("illegal base64 data".into());
        }
    }

    fn tell(&mut self, problem: String) {
        if self.findings.mismatched.len() < MAX_REPORTED_FIELDS {
            self.findings.mismatched.push(problem);
        }
    }

    fn mismatch(&mut self, of: &Type, holder: Holder<'_>, value: &Value, path: &Path<'_>) {
        let got = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(n) if matches!(of, Type::Integer { .. } | Type::IntOrString) => format!("number {n}"),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".to_string(),
        };
        let mut place = format!("{}.{}", holder.name, path.fields());
        if matches!(path, Path::Root) {
            place.truncate(holder.name.len());
        }
        let of = go_type(of);
        self.tell(format!("json: cannot unmarshal {got} into Go struct field {place} of type {of}"));
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Bool(said) => !said,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Null => true,
    }
}

/// What Go calls a type.
fn go_type(of: &Type) -> String {
    match of {
        Type::Object { .. } | Type::Any => "struct".into(),
        Type::Map { values, .. } => format!("map[string]{}", go_type(values)),
        Type::List { items, .. } => format!("[]{}", go_type(items)),
        Type::Named(name) => {
            let mut parts = name.rsplit('.');
            let (kind, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{kind}")
        }
        Type::String => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Time { .. } => "time.Time".into(),
        Type::Integer { bits } => format!("int{bits}"),
        Type::Number => "float64".into(),
        Type::Bool => "bool".into(),
        Type::IntOrString => "int32".into(),
        Type::Quantity => "resource.Quantity".into(),
    }
}

#[cfg(test)]
mod tests;
