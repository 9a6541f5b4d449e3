//! Field names and types of all built-in kinds.
//!
//! The data is `schema/types.json.zst`, written by `xtask schema`. It is unpacked on first use into a compact form;
//! the descriptions (`docs.json.zst`) are unpacked only for the OpenAPI documents.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

static TYPES: &[u8] = include_bytes!("../schema/types.json.zst");
static DOCS: &[u8] = include_bytes!("../schema/docs.json.zst");

/// The type of a field.
#[derive(Debug, Clone)]
pub(crate) enum Type {
    /// Named fields. An atomic object has one owner for all of it (`x-kubernetes-map-type`).
    Object {
        fields: Vec<(String, Type)>,
        atomic: bool,
    },
    /// An object with any keys, and values of one type.
    Map {
        values: Box<Type>,
        atomic: bool,
    },
    List {
        items: Box<Type>,
        kind: ListKind,
        merge: Option<String>,
    },
    /// A type by name; resolved on use, as types may hold themselves.
    Named(String),
    String,
    Bytes,
    Time,
    Integer,
    Number,
    Bool,
    IntOrString,
    Any,
}

/// What the items of a list are told apart by (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    /// By these fields of each item.
    Map(Vec<String>),
}

/// The built-in types by name.
pub struct Types {
    types: HashMap<String, Type>,
}

/// What [`Types::check`] found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Paths of fields that the type doesn't have, in upstream's words.
    pub unknown: Vec<String>,
    /// Fields of the wrong type, which can't be decoded at all.
    pub mismatched: Vec<String>,
}

fn unpack(packed: &[u8]) -> Value {
    // The data is part of the binary and the unit tests read it, so this can't fail in the field.
    zstd::decode_all(packed).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null)
}

pub fn types() -> &'static Types {
    static CACHE: OnceLock<Types> = OnceLock::new();
    CACHE.get_or_init(|| {
        let Value::Object(all) = unpack(TYPES) else { return Types { types: HashMap::new() } };
        Types { types: all.iter().map(|(name, schema)| (name.clone(), read_type(name, schema))).collect() }
    })
}

/// The schemas and the descriptions as JSON, for OpenAPI. Not cached: they are large and seldom asked for.
pub fn raw() -> (Map<String, Value>, Map<String, Value>) {
    match (unpack(TYPES), unpack(DOCS)) {
        (Value::Object(types), Value::Object(docs)) => (types, docs),
        _ => (Map::new(), Map::new()),
    }
}

pub(crate) fn read_type(name: &str, schema: &Value) -> Type {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or("");
    match name.rsplit('.').next() {
        Some("Time" | "MicroTime") => return Type::Time,
        Some("Quantity" | "IntOrString") => return Type::IntOrString,
        Some("FieldsV1" | "JSON" | "RawExtension" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool")
        | Some("JSONSchemaPropsOrStringArray") => return Type::Any,
        _ => {}
    }
    let reference = schema.get("$ref").or_else(|| schema.get("allOf").and_then(|a| a.get(0)?.get("$ref")));
    if let Some(target) = reference.and_then(Value::as_str) {
        return Type::Named(target.trim_start_matches("#/components/schemas/").into());
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Type::IntOrString;
    }
    match text("type") {
        "object" => {
            let atomic = text("x-kubernetes-map-type") == "atomic";
            match (schema.get("properties"), schema.get("additionalProperties")) {
                (Some(Value::Object(fields)), _) => {
                    let fields = fields.iter().map(|(field, s)| (field.clone(), read_type("", s))).collect();
                    Type::Object { fields, atomic }
                }
                (_, Some(values)) => Type::Map { values: Box::new(read_type("", values)), atomic },
                _ => Type::Any,
            }
        }
        "array" => read_list(schema),
        "string" if text("format") == "byte" => Type::Bytes,
        "string" => Type::String,
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Bool,
        _ => Type::Any,
    }
}

fn read_list(schema: &Value) -> Type {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or("");
    let strategic = text("x-kubernetes-patch-strategy").split(',').any(|s| s == "merge");
    let merge = strategic.then(|| text("x-kubernetes-patch-merge-key").to_string());
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let keys: Vec<String> = keys.into_iter().flatten().filter_map(Value::as_str).map(String::from).collect();
    let kind = match text("x-kubernetes-list-type") {
        "map" => ListKind::Map(keys),
        "set" => ListKind::Set,
        "atomic" => ListKind::Atomic,
        // Where nothing is said, the older tags of strategic merge count.
        _ => match merge.as_deref() {
            None => ListKind::Atomic,
            Some("") => ListKind::Set,
            Some(key) => ListKind::Map(vec![key.into()]),
        },
    };
    Type::List { items: Box::new(read_type("", &schema["items"])), kind, merge }
}

impl Types {
    pub fn contains(&self, name: &str) -> bool {
        self.types.contains_key(name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Type> {
        self.types.get(name)
    }

    /// What a type that is only named stands for.
    pub(crate) fn resolve<'a>(&'a self, of: &'a Type) -> &'a Type {
        const ANY: &Type = &Type::Any;
        let mut of = of;
        while let Type::Named(name) = of {
            of = self.types.get(name).unwrap_or(ANY);
        }
        of
    }

    /// Goes over `object`, which should be of the named type: removes nulls (as decoding into Go would) and unknown
    /// fields, and tells what it found.
    pub fn check(&self, name: &str, object: &mut Value) -> Findings {
        let mut findings = Findings::default();
        if let Some(of) = self.types.get(name) {
            self.walk(of, object, "", &mut findings);
        }
        findings
    }

    fn walk(&self, of: &Type, value: &mut Value, path: &str, findings: &mut Findings) {
        let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match (of, &mut *value) {
            (Type::Named(name), _) => {
                if let Some(of) = self.types.get(name) {
                    self.walk(of, value, path, findings);
                }
            }
            (Type::Any, _)
            | (Type::String, Value::String(_))
            | (Type::Integer | Type::Number | Type::IntOrString, Value::Number(_))
            | (Type::IntOrString, Value::String(_))
            | (Type::Bool, Value::Bool(_)) => {
                if let (Type::Integer, Value::Number(n)) = (of, &*value)
                    && n.as_i64().is_none()
                {
                    self.mismatch(of, value, path, findings);
                }
            }
            (Type::Time, Value::String(text)) => {
                if text.parse::<jiff::Timestamp>().is_err() {
                    findings.mismatched.push(format!("{path}: parsing time {text:?}: it must be RFC 3339"));
                }
            }
            (Type::Bytes, Value::String(text)) => {
                use base64::Engine as _;
                if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
                    findings.mismatched.push(format!("{path}: illegal base64 data"));
                }
            }
            (Type::List { items: item, .. }, Value::Array(list)) => {
                list.retain(|v| !v.is_null());
                for (i, v) in list.iter_mut().enumerate() {
                    self.walk(item, v, &format!("{path}[{i}]"), findings);
                }
            }
            (Type::Map { values: item, .. }, Value::Object(map)) => {
                map.retain(|_, v| !v.is_null());
                for (key, v) in map.iter_mut() {
                    self.walk(item, v, &join(key), findings);
                }
            }
            (Type::Object { fields, .. }, Value::Object(map)) => {
                map.retain(|key, v| {
                    let known = fields.iter().any(|(f, _)| f == key);
                    if !known {
                        findings.unknown.push(join(key));
                    }
                    known && !v.is_null()
                });
                for (key, v) in map.iter_mut() {
                    if let Some((_, of)) = fields.iter().find(|(f, _)| f == key) {
                        self.walk(of, v, &join(key), findings);
                    }
                }
            }
            _ => self.mismatch(of, value, path, findings),
        }
    }

    fn mismatch(&self, of: &Type, value: &Value, path: &str, findings: &mut Findings) {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let want = match of {
            Type::Object { .. } | Type::Map { .. } => "an object",
            Type::List { .. } => "a list",
            Type::String | Type::Bytes => "a string",
            Type::Time => "a time in RFC 3339",
            Type::Integer => "an integer",
            Type::Number => "a number",
            Type::Bool => "true or false",
            Type::IntOrString => "a number or a string",
            Type::Named(_) | Type::Any => "another type",
        };
        findings.mismatched.push(format!("json: cannot unmarshal {got} into field {path}: it must be {want}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mut pod: Value) -> (Findings, Value) {
        let findings = types().check("io.k8s.api.core.v1.Pod", &mut pod);
        (findings, pod)
    }

    #[test]
    fn typos_are_named_and_dropped() {
        let (findings, pod) = check(json!({
            "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"containers": [{"name": "a", "imagge": "x", "ports": [{"containerPort": 80}]}], "extra": 1}
        }));
        assert_eq!(findings.unknown, ["spec.extra", "spec.containers[0].imagge"]);
        assert!(findings.mismatched.is_empty());
        assert_eq!(
            pod,
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}})
        );
    }

    #[test]
    fn wrong_types_are_named() {
        let (findings, _) = check(json!({"spec": {"containers": {"name": "a"}, "hostNetwork": "yes"}}));
        assert_eq!(findings.mismatched.len(), 2, "{findings:?}");
        assert!(findings.mismatched[0].contains("array") || findings.mismatched[0].contains("spec.containers"));
    }

    #[test]
    fn quantities_and_ports_may_be_numbers_or_text() {
        let (findings, _) = check(json!({"spec": {"containers": [{"name": "a",
            "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": "web"}}}]}}));
        assert_eq!(findings, Findings::default());
    }
}
