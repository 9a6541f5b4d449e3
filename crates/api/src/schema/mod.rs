//! Field names and types of all built-in kinds.
//!
//! The data is `schema/types.json.zst`, written by `xtask schema`. It is unpacked on first use into a compact form;
//! the descriptions (`docs.json.zst`) are unpacked only for the OpenAPI documents. `omitted.txt` has what no schema says:
//! of which fields an empty value is the same as none, and `zeros.txt` what every object has (`xtask/omitted` writes both).

mod check;

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde_json::{Map, Value};

static TYPES: &[u8] = include_bytes!("../../schema/types.json.zst");
static OMITTED: &str = include_str!("../../schema/omitted.txt");
static ZEROS: &str = include_str!("../../schema/zeros.txt");
static DOCS: &[u8] = include_bytes!("../../schema/docs.json.zst");

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
    Time {
        /// With six digits of the second (`MicroTime`).
        micro: bool,
    },
    Integer {
        bits: u8,
    },
    Number,
    Bool,
    IntOrString,
    Quantity,
    Any,
}

/// What the items of a list are told apart by (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    /// By these fields of each item.
    Map(Vec<Key>),
}

/// A field that tells items of a list apart, and what it is in an item that doesn't have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its name in an item.
    pub name: String,
    /// Its value in an item that has none.
    pub default: Option<Value>,
}

/// The built-in types by name.
#[derive(Default)]
pub struct Types {
    types: HashMap<String, Type>,
    /// By type: the fields that Go doesn't write when they are empty.
    omitted: HashMap<&'static str, HashSet<&'static str>>,
    /// By kind: what Go writes of an object that nobody has filled in.
    zeros: HashMap<&'static str, Value>,
}

pub use check::Findings;

fn unpack(packed: &[u8]) -> Value {
    // The data is part of the binary and the unit tests read it, so this can't fail in the field.
    zstd::decode_all(packed).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null)
}

/// All built-in types, read once.
pub fn types() -> &'static Types {
    static CACHE: OnceLock<Types> = OnceLock::new();
    CACHE.get_or_init(|| {
        let Value::Object(all) = unpack(TYPES) else { return Types::default() };
        let types = all.iter().map(|(name, schema)| (name.clone(), read_type(name, schema))).collect();
        let line = |line: &'static str| -> Option<(&'static str, HashSet<&'static str>)> {
            let (name, fields) = line.split_once(' ')?;
            Some((name, fields.split(' ').collect()))
        };
        let zero = |line: &'static str| -> Option<(&'static str, Value)> {
            let (name, object) = line.split_once(' ')?;
            Some((name, serde_json::from_str(object).ok()?))
        };
        let (omitted, zeros) = (OMITTED.lines().filter_map(line), ZEROS.lines().filter_map(zero));
        Types { types, omitted: omitted.collect(), zeros: zeros.collect() }
    })
}

impl Types {
    /// An object of a kind that nobody has filled in, as Go writes it: parts that aren't pointers are always there.
    pub fn empty(&self, name: &str) -> Value {
        self.zeros.get(name).cloned().unwrap_or_else(|| Value::Object(Map::new()))
    }
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
        Some("Time") => return Type::Time { micro: false },
        Some("MicroTime") => return Type::Time { micro: true },
        Some("Quantity") => return Type::Quantity,
        Some("IntOrString") => return Type::IntOrString,
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
        "integer" => Type::Integer { bits: if text("format") == "int32" { 32 } else { 64 } },
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
    let items = &schema["items"];
    let key = |name: &str| Key {
        name: name.into(),
        default: match &items["properties"][name]["default"] {
            // The one key of built-in kinds that has a default, which their schemas don't say.
            Value::Null if name == "protocol" && items["properties"].is_null() => Some("TCP".into()),
            Value::Null => None,
            default => Some(default.clone()),
        },
    };
    let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(key).collect();
    let kind = match text("x-kubernetes-list-type") {
        "map" => ListKind::Map(keys),
        "set" => ListKind::Set,
        "atomic" => ListKind::Atomic,
        // Where nothing is said, the older tags of strategic merge count.
        _ => match merge.as_deref() {
            None => ListKind::Atomic,
            Some("") => ListKind::Set,
            Some(name) => ListKind::Map(vec![key(name)]),
        },
    };
    Type::List { items: Box::new(read_type("", &schema["items"])), kind, merge }
}

impl Types {
    /// Whether there is a type of that name, such as `io.k8s.api.core.v1.Pod`.
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
}
