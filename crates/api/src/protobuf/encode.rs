//! Writing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Layout, MAGIC, MAX_DEPTH, numbers, short};
use crate::Kind;
use crate::schema::{self, Type};

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    key(out, number, 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    key(out, number, 0);
    varint(out, value as u64);
}

/// The envelope (`runtime.Unknown`) up to its message, which has `length` bytes.
fn envelope_head(version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(32);
    bytes(&mut meta, 1, version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(MAGIC);
    bytes(&mut out, 1, &meta);
    key(&mut out, 2, 2);
    varint(&mut out, length as u64);
    out
}

/// The envelope around a message.
fn envelope(version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(version, kind, message.len());
    out.extend_from_slice(message);
    out
}

/// The bare message of an object, as lists hold it, and whether all of the object is in it: fields that are too new to
/// have a number here are left out.
pub fn object_message(kind: &Kind, object: &Value) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(512);
    let complete = message(&mut out, &kind.schema(), object, 0);
    (out, complete)
}

/// A `Status` in its envelope.
pub fn status(status: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, "io.k8s.apimachinery.pkg.apis.meta.v1.Status", status, 0);
    envelope("v1", "Status", &out)
}

/// An object in its envelope.
pub fn object(kind: &Kind, message: &[u8]) -> Vec<u8> {
    envelope(&kind.api_version(), kind.kind, message)
}

/// The bytes that one of the items of a list has in it, by the length of its message.
pub fn item_size(message: usize) -> usize {
    let mut key = Vec::with_capacity(10);
    varint(&mut key, message as u64);
    key.len().saturating_add(1).saturating_add(message)
}

/// An item of a list, given as its message.
pub fn item(out: &mut Vec<u8>, message: &[u8]) {
    bytes(out, 2, message);
}

/// A list of objects in its envelope, up to its items, which have `size` bytes together.
pub fn list_head(kind: &Kind, revision: u64, more: Option<(&str, Option<usize>)>, size: usize) -> Vec<u8> {
    let mut metadata = Vec::new();
    bytes(&mut metadata, 2, revision.to_string().as_bytes());
    if let Some((token, left)) = more {
        bytes(&mut metadata, 3, token.as_bytes());
        if let Some(left) = left {
            integer(&mut metadata, 4, left as i64);
        }
    }
    let mut list = Vec::new();
    bytes(&mut list, 1, &metadata);
    let mut out = envelope_head(&kind.api_version(), &format!("{}List", kind.kind), list.len().saturating_add(size));
    out.extend_from_slice(&list);
    out
}

/// A frame of a watch: its length, then what happened and the object in its envelope.
pub fn event(what: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    bytes(&mut raw, 1, object);
    let mut event = Vec::with_capacity(raw.len() + 24);
    bytes(&mut event, 1, what.as_bytes());
    bytes(&mut event, 2, &raw);
    let mut out = Vec::with_capacity(event.len() + 4);
    out.extend_from_slice(&(event.len() as u32).to_be_bytes());
    out.extend_from_slice(&event);
    out
}

/// Writes the fields of a value of the named type; `false` if one of them has no number.
fn message(out: &mut Vec<u8>, name: &str, value: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if special(out, name, value) {
        return true;
    }
    let (Some(members), Some(layout)) = (value.as_object(), numbers().layouts.get(name)) else {
        return value.as_object().is_some_and(Map::is_empty);
    };
    // The kind of an object stands in its envelope.
    let wanted = |field: &str| layout.fields.contains_key(field) || (field != "apiVersion" && field != "kind");
    let count = members.iter().filter(|(field, member)| !member.is_null() && wanted(field)).count();
    fields(out, layout, members, depth) == count
}

/// Writes the members that are fields of a layout or of those embedded in it, and returns how many are complete.
fn fields(out: &mut Vec<u8>, layout: &Layout, members: &Map<String, Value>, depth: usize) -> usize {
    let mut count = 0;
    for (name, member) in members {
        if let Some((number, of)) = layout.fields.get(name).filter(|_| !member.is_null()) {
            count += usize::from(field(out, *number, of, member, depth + 1));
        }
    }
    for (number, embedded) in &layout.embedded {
        let mut inner = Vec::new();
        let written = fields(&mut inner, embedded, members, depth);
        if !inner.is_empty() {
            bytes(out, *number, &inner);
        }
        count += written;
    }
    count
}

fn field(out: &mut Vec<u8>, number: u32, of: &Type, value: &Value, depth: usize) -> bool {
    match (of, value) {
        (Type::List { items, .. }, Value::Array(list)) => {
            let mut complete = true;
            for item in list {
                complete &= single(out, number, items, item, depth);
            }
            complete
        }
        (Type::Map { values, .. }, Value::Object(map)) => map.iter().fold(true, |all, (name, member)| {
            let mut entry = Vec::with_capacity(name.len() + 16);
            bytes(&mut entry, 1, name.as_bytes());
            let complete = single(&mut entry, 2, values, member, depth);
            bytes(out, number, &entry);
            all && complete
        }),
        _ => single(out, number, of, value, depth),
    }
}

fn single(out: &mut Vec<u8>, number: u32, of: &Type, value: &Value, depth: usize) -> bool {
    match of {
        Type::Named(name) if is_scalar(name) => return single(out, number, &Type::String, value, depth),
        Type::Named(name) => {
            let mut inner = Vec::new();
            let complete = message(&mut inner, name, value, depth);
            bytes(out, number, &inner);
            return complete;
        }
        Type::Bytes => bytes(out, number, &STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default()),
        Type::Integer { .. } => integer(out, number, value.as_i64().unwrap_or(0)),
        Type::Bool => integer(out, number, i64::from(value == &Value::Bool(true))),
        Type::Number => {
            key(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_bits().to_le_bytes());
        }
        // A list inside a map is a message of its own.
        Type::List { .. } => {
            let mut inner = Vec::new();
            let complete = field(&mut inner, 1, of, value, depth);
            bytes(out, number, &inner);
            return complete;
        }
        _ => match value {
            Value::String(text) => bytes(out, number, text.as_bytes()),
            other => bytes(out, number, other.to_string().as_bytes()),
        },
    }
    true
}

/// Named types that are plain texts.
fn is_scalar(name: &str) -> bool {
    matches!(schema::types().get(name), Some(Type::String))
}

/// Types that are something else in protobuf than in JSON.
fn special(out: &mut Vec<u8>, name: &str, value: &Value) -> bool {
    match short(name) {
        "Time" | "MicroTime" => {
            if let Some(time) = value.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()) {
                integer(out, 1, time.as_second());
                integer(out, 2, i64::from(time.subsec_nanosecond()));
            }
        }
        "Quantity" => match value {
            Value::String(text) => bytes(out, 1, text.as_bytes()),
            other => bytes(out, 1, other.to_string().as_bytes()),
        },
        "IntOrString" => match value {
            Value::String(text) => {
                integer(out, 1, 1);
                bytes(out, 3, text.as_bytes());
            }
            other => {
                integer(out, 1, 0);
                integer(out, 2, other.as_i64().unwrap_or(0));
            }
        },
        "RawExtension" | "JSON" | "FieldsV1" => bytes(out, 1, value.to_string().as_bytes()),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{decode, speaks};
    use super::*;
    use crate::KINDS;

    fn has(layout: &Layout, field: &str) -> bool {
        layout.fields.contains_key(field) || layout.embedded.iter().any(|(_, l)| has(l, field))
    }

    /// Numbers by chance from a seed (xorshift).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % most
        }

        fn text(&mut self) -> String {
            (0..=self.below(5)).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
        }

        /// An object of a named type with fields that have a number; the deeper, the fewer.
        fn object(&mut self, name: &str, depth: u64) -> Value {
            let Some(Type::Object { fields, .. }) = schema::types().get(name) else { return json!({}) };
            let Some(layout) = numbers().layouts.get(name) else { return json!({}) };
            let mut members = Map::new();
            for (field, of) in fields.iter().filter(|(field, _)| has(layout, field)) {
                if self.below(2 + depth) == 0 {
                    members.insert(field.clone(), self.value(of, depth + 1));
                }
            }
            Value::Object(members)
        }

        /// A value of a type.
        fn value(&mut self, of: &Type, depth: u64) -> Value {
            let count = 1 + self.below(2);
            match of {
                Type::Map { values, .. } => (0..count).map(|_| (self.text(), self.value(values, depth + 1))).collect(),
                Type::List { items, .. } => (0..count).map(|_| self.value(items, depth + 1)).collect(),
                Type::Named(name) => match short(name) {
                    "Time" => {
                        jiff::Timestamp::from_second(1 + self.below(4_000_000_000) as i64).unwrap().to_string().into()
                    }
                    "MicroTime" => json!("2026-01-02T03:04:05.678901Z"),
                    "Quantity" => json!(["1Gi", "250m"][self.below(2) as usize]),
                    "IntOrString" if count == 1 => json!(-1),
                    "IntOrString" => self.text().into(),
                    "RawExtension" | "JSON" | "FieldsV1" => json!({"a": [1, "b", null]}),
                    _ => self.object(name, depth),
                },
                Type::Bytes => STANDARD.encode(self.text()).into(),
                Type::Integer { .. } => (self.below(1 << 32) as i64 - (1 << 31)).into(),
                Type::Number => (1.0 + self.below(1000) as f64 / 8.0).into(),
                Type::Bool => (count == 1).into(),
                _ => self.text().into(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_kind_survives_the_way_through_protobuf(seed in 1..u64::MAX) {
            let mut chance = Chance(seed);
            for kind in KINDS.iter().filter(|k| speaks(k)) {
                let mut written = chance.value(&Type::Named(kind.schema()), 0);
                let (message, complete) = object_message(kind, &written);
                prop_assert!(complete);
                let read = decode(&object(kind, &message));
                written["apiVersion"] = kind.api_version().into();
                written["kind"] = kind.kind.into();
                prop_assert_eq!(read, Ok(written), "{}", kind.kind);
            }
        }
    }

    /// Fields that are newer than the numbers this crate knows; objects that have one are answered as JSON.
    const WITHOUT_NUMBER: usize = 93;

    #[test]
    fn nearly_all_fields_have_a_number() {
        let mut missing = Vec::new();
        for kind in KINDS.iter().filter(|k| speaks(k)) {
            find_missing(&kind.schema(), &mut Vec::new(), &mut missing);
        }
        missing.sort();
        missing.dedup();
        assert!(missing.len() <= WITHOUT_NUMBER, "{missing:#?}");
    }

    fn find_missing(name: &str, seen: &mut Vec<String>, missing: &mut Vec<String>) {
        let Some(Type::Object { fields, .. }) = schema::types().get(name) else { return };
        if seen.iter().any(|s| s == name) {
            return;
        }
        seen.push(name.into());
        let layout = numbers().layouts.get(name);
        for (field, of) in fields.iter().filter(|(f, _)| f != "apiVersion" && f != "kind") {
            if !layout.is_some_and(|l| has(l, field)) {
                missing.push(format!("{}.{field}", short(name)));
            }
            let mut of = of;
            while let Type::List { items: inner, .. } | Type::Map { values: inner, .. } = of {
                of = inner;
            }
            if let Type::Named(inner) = of
                && !matches!(
                    short(inner),
                    "Time" | "MicroTime" | "Quantity" | "IntOrString" | "RawExtension" | "JSON" | "FieldsV1"
                )
            {
                find_missing(inner, seen, missing);
            }
        }
    }

    #[test]
    fn frames_of_watches_begin_with_their_length() {
        let frame = event("ADDED", b"xyz");
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
        assert_eq!(frame[4..], [b"\x0a\x05ADDED\x12\x05\x0a\x03xyz".as_slice()].concat());
    }
}
