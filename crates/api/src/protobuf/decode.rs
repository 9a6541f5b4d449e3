//! Reading.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Field, MAGIC, MAX_DEPTH, numbers, short, type_name};
use crate::schema::{self, Type};

/// A field on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl Wire<'_> {
    fn integer(&self) -> i64 {
        match self {
            Wire::Varint(n) | Wire::Fixed64(n) => *n as i64,
            Wire::Fixed32(n) => i64::from(*n as i32),
            Wire::Bytes(_) => 0,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(first & 0x7f).checked_shl(shift)?;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }

    /// The next field's number and value; `Ok(None)` at the end.
    fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut read = || -> Option<(u32, Wire<'a>)> {
            let key = self.varint()?;
            let wire = match key & 7 {
                0 => Wire::Varint(self.varint()?),
                1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    Wire::Bytes(self.take(length)?)
                }
                5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
                _ => return None,
            };
            Some((u32::try_from(key >> 3).ok()?, wire))
        };
        read().map(Some).ok_or_else(|| "the protobuf message is cut off or malformed".to_string())
    }
}

/// The fields of a message by number, for the few messages that aren't in the schema as such.
fn fields(bytes: &[u8]) -> Result<HashMap<u32, Wire<'_>>, String> {
    let mut reader = Reader { rest: bytes };
    let mut all = HashMap::new();
    while let Some((number, wire)) = reader.field()? {
        all.insert(number, wire);
    }
    Ok(all)
}

fn text(wire: Option<&Wire<'_>>) -> String {
    match wire {
        Some(Wire::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// Reads a body: the magic number, an envelope with version and kind, and the object.
///
/// # Errors
/// When the body is no protobuf of a kind that is known here.
pub fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body lacks the prefix of Kubernetes' protobuf")?;
    let envelope = fields(envelope)?;
    let meta = match envelope.get(&1) {
        Some(Wire::Bytes(bytes)) => fields(bytes)?,
        _ => HashMap::new(),
    };
    let (version, kind) = (text(meta.get(&1)), text(meta.get(&2)));
    let name = type_name(&version, &kind).ok_or_else(|| format!("there is no kind {kind} in {version}"))?;
    let raw = match envelope.get(&2) {
        Some(Wire::Bytes(bytes)) => bytes,
        _ => &[][..],
    };
    let mut object = message(&name, raw, 0)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// A message of the named type.
fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("the body nests too deeply".into());
    }
    if let Some(special) = special(name, bytes)? {
        return Ok(special);
    }
    let Some(Type::Object { fields: properties, .. }) = schema::types().get(name) else { return Ok(json!({})) };
    let mut object = Map::new();
    members(name, properties, bytes, depth, &mut object)?;
    Ok(Value::Object(object))
}

/// Adds the fields of a message, and of those that are embedded in it, to an object.
fn members(
    key: &str,
    properties: &[(String, Type)],
    bytes: &[u8],
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<(), String> {
    let Some(numbers) = numbers().messages.get(key) else { return Ok(()) };
    let mut reader = Reader { rest: bytes };
    while let Some((number, wire)) = reader.field()? {
        let name = match (numbers.get(&number), &wire) {
            (Some(Field::Named(name)), _) => name,
            (Some(Field::Embedded(key)), Wire::Bytes(bytes)) => {
                members(key, properties, bytes, depth, object)?;
                continue;
            }
            // Fields that are newer than this server are passed over, as the JSON decoder passes unknown ones over.
            _ => continue,
        };
        let Some((field, of)) = properties.iter().find(|(p, _)| p == name) else { continue };
        match of {
            Type::List { items: item, .. } => {
                let list = object.entry(field.clone()).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value(item, &wire, depth.saturating_add(1))?);
                }
            }
            Type::Map { values: item, .. } => {
                let map = object.entry(field.clone()).or_insert_with(|| json!({}));
                let Wire::Bytes(entry) = wire else { continue };
                let entry = fields(entry)?;
                let held = match entry.get(&2) {
                    Some(wire) => value(item, wire, depth.saturating_add(1))?,
                    None => absent(item),
                };
                map[text(entry.get(&1))] = held;
            }
            of => {
                let held = value(of, &wire, depth.saturating_add(1))?;
                // client-go writes empty texts for what isn't set.
                if held != "" {
                    object.insert(field.clone(), held);
                }
            }
        }
    }
    Ok(())
}

/// A value in a map whose entry names none.
fn absent(of: &Type) -> Value {
    match of {
        Type::Integer { .. } | Type::Number => json!(0),
        Type::Bool => json!(false),
        Type::List { .. } => json!([]),
        Type::Map { .. } | Type::Object { .. } | Type::Named(_) => json!({}),
        _ => json!(""),
    }
}

fn value(of: &Type, wire: &Wire<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (of, wire) {
        (Type::Named(name), Wire::Bytes(bytes)) => message(name, bytes, depth)?,
        (Type::String | Type::IntOrString | Type::Any, Wire::Bytes(_)) => text(Some(wire)).into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        // As Go's generated code does.
        (Type::Integer { bits: 32 }, wire) => i64::from(wire.integer() as i32).into(),
        (Type::Integer { .. }, wire) => wire.integer().into(),
        (Type::Bool, wire) => (wire.integer() != 0).into(),
        (Type::Number, Wire::Fixed64(bits)) => json!(f64::from_bits(*bits)),
        (Type::Number, wire) => wire.integer().into(),
        // A list inside a map is wrapped into a message of its own.
        (Type::List { items: item, .. }, Wire::Bytes(bytes)) => {
            let mut reader = Reader { rest: bytes };
            let mut list = Vec::new();
            while let Some((_, wire)) = reader.field()? {
                list.push(value(item, &wire, depth.saturating_add(1))?);
            }
            Value::Array(list)
        }
        _ => return Err("a field has the wrong type on the wire".into()),
    })
}

/// Types that are something else in JSON than in protobuf.
fn special(name: &str, bytes: &[u8]) -> Result<Option<Value>, String> {
    let short = short(name);
    Ok(Some(match short {
        "Time" | "MicroTime" => {
            let parts = fields(bytes)?;
            let (seconds, nanos) = (parts.get(&1).map_or(0, Wire::integer), parts.get(&2).map_or(0, Wire::integer));
            if seconds == 0 && nanos == 0 {
                return Ok(Some(Value::Null));
            }
            let time = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).map_err(|e| e.to_string())?;
            let format = if short == "Time" { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            time.strftime(format).to_string().into()
        }
        "Quantity" => text(fields(bytes)?.get(&1)).into(),
        "IntOrString" => {
            let parts = fields(bytes)?;
            match parts.get(&1).map_or(0, Wire::integer) {
                0 => parts.get(&2).map_or(0, |n| i64::from(n.integer() as i32)).into(),
                _ => text(parts.get(&3)).into(),
            }
        }
        "RawExtension" | "JSON" | "FieldsV1" => {
            let raw = text(fields(bytes)?.get(&1));
            if raw.is_empty() { Value::Null } else { serde_json::from_str(&raw).map_err(|e| e.to_string())? }
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, content.len() as u8];
        out.extend_from_slice(content);
        out
    }

    fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, object)].concat()
    }

    #[test]
    fn objects_are_read_with_maps_lists_and_special_types() {
        // Service: metadata(1){name(1), labels(11)}, spec(2){ports(1){port(3), targetPort(4)}}
        let labels = [field(1, b"app"), field(2, b"web")].concat();
        let metadata = [field(1, b"web"), field(11, &labels)].concat();
        let target = [vec![1 << 3, 1], field(3, b"http")].concat();
        let port = [vec![3 << 3, 80], field(4, &target)].concat();
        let spec = field(1, &port);
        let body = envelope("v1", "Service", &[field(1, &metadata), field(2, &spec)].concat());
        assert_eq!(
            decode(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
                   "spec": {"ports": [{"port": 80, "targetPort": "http"}]}})
        );
    }

    #[test]
    fn fields_of_embedded_messages_stand_beside_the_others() {
        // Pod: spec(2){volumes(1){name(1), volumeSource(2){configMap(19){localObjectReference(1){name(1)}}}}}
        let config_map = field(1, &field(1, b"settings"));
        let source = [vec![0x9a, 1, config_map.len() as u8], config_map].concat();
        let volume = [field(1, b"v"), field(2, &source)].concat();
        let body = envelope("v1", "Pod", &field(2, &field(1, &volume)));
        assert_eq!(
            decode(&body).unwrap()["spec"],
            json!({"volumes": [{"name": "v", "configMap": {"name": "settings"}}]})
        );
    }

    #[test]
    fn nonsense_is_refused_and_never_panics() {
        for bad in [&b""[..], b"k8s\0\xff", b"{}", b"k8s\0\x0a\x7f"] {
            assert!(decode(bad).is_err());
        }
        let body = envelope("v1", "Service", &field(1, b"\xff\xff\xff"));
        assert!(decode(&body).is_err());
    }
}
