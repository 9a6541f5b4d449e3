//! What structural schemas say of types and sizes: which values rules see, how many elements these have at most, and
//! how many bytes they have at least (upstream: `SchemaDeclType`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::types::Type;
use crate::value::{escape, is_reserved, unescape};

/// The largest request that upstream counts with, in bytes.
pub(crate) const REQUEST: u64 = 3 * 1024 * 1024;
/// A time of RFC 3339 with its quotes has at most, and at least, so many bytes.
const LONGEST_TIME: u64 = 32;
const SHORTEST_TIME: u64 = 21;
const DATE: u64 = 12;

/// What rules may see of the metadata of resources.
static METADATA: LazyLock<Value> = LazyLock::new(
    || json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}}),
);
static TEXT: LazyLock<Value> = LazyLock::new(|| json!({"type": "string"}));

/// A schema, and whether it is that of a whole resource, in which some fields are always there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'s> {
    pub schema: &'s Value,
    pub is_resource: bool,
}

impl<'s> Node<'s> {
    /// A schema below another one.
    fn below(schema: &'s Value) -> Self {
        Node { schema, is_resource: schema["x-kubernetes-embedded-resource"] == true }
    }

    pub fn is(&self, other: &Node<'_>) -> bool {
        std::ptr::eq(self.schema, other.schema)
    }

    fn text(&self, key: &str) -> &'s str {
        self.schema[key].as_str().unwrap_or("")
    }

    /// A limit; one that is negative allows nothing.
    fn limit(&self, key: &str) -> Option<u64> {
        let limit = &self.schema[key];
        limit.as_u64().or_else(|| limit.as_f64().map(|n| if n < 0.0 { 0 } else { n as u64 }))
    }

    fn is_int_or_string(&self) -> bool {
        self.schema["x-kubernetes-int-or-string"] == true
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<Node<'s>> {
        let items = self.schema.get("items").filter(|of| of.is_object())?;
        (self.text("type") == "array").then(|| Node::below(items))
    }

    /// The schema of a map's values.
    pub fn values(&self) -> Option<Node<'s>> {
        let of = self.schema.get("additionalProperties").filter(|of| of.is_object())?;
        (self.text("type") == "object").then(|| Node::below(of))
    }

    /// The schema of an object's field, by the name that it has in expressions: escaped, or, for words that the
    /// language reserves, also as it is written (upstream's `SetRecognizeKeywordAsFieldName`).
    pub fn field(&self, name: &str) -> Option<Node<'s>> {
        if self.is_int_or_string() || self.text("type") != "object" || self.values().is_some() {
            return None;
        }
        if self.is_resource && !self.declares_identity() {
            match name {
                "apiVersion" | "kind" => return Some(Node::below(&TEXT)),
                "metadata" => return Some(Node::below(&METADATA)),
                _ => {}
            }
        }
        let properties = self.schema["properties"].as_object()?;
        let plain = unescape(name);
        let found = match properties.get(&plain) {
            Some(of) if escape(&plain).is_some_and(|escaped| escaped == name) => Some(of),
            _ => properties.get(name).filter(|_| is_reserved(name)),
        };
        found.map(Node::below).filter(|of| of.of().is_some())
    }

    /// Whether the schema itself says what every resource has; then that holds, with its limits.
    fn declares_identity(&self) -> bool {
        let properties = &self.schema["properties"];
        let metadata = &properties["metadata"];
        let texts = [&properties["kind"], &properties["apiVersion"]].into_iter();
        let mut texts = texts.chain(["name", "generateName"].map(|name| &metadata["properties"][name]));
        metadata["type"] == "object" && texts.all(|of| of["type"] == "string")
    }

    /// The type of the values of a schema, or `None` when rules can't see them.
    pub fn of(&self) -> Option<Type<'s>> {
        if self.is_int_or_string() {
            return Some(Type::Dyn);
        }
        Some(match self.text("type") {
            "array" => Type::list(self.items()?.of()?),
            "object" => match self.values() {
                Some(values) => Type::map(Type::Text, values.of()?),
                None => Type::Object(*self),
            },
            "string" => match self.text("format") {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Time,
                _ => Type::Text,
            },
            "boolean" => Type::Bool,
            "number" => Type::Double,
            "integer" => Type::Int,
            _ => return None,
        })
    }

    /// Whether the order of a list's items means nothing.
    pub fn is_unordered(&self) -> bool {
        matches!(self.schema["x-kubernetes-list-type"].as_str(), Some("set" | "map"))
    }
}

/// How large values are. Keeps the smallest sizes that it found, as they are asked for again and again.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    smallest: RefCell<HashMap<(usize, bool), u64>>,
}

impl Sizes {
    /// The most elements of a value: characters, items or members, as upstream counts them. Numbers, booleans and
    /// objects have none.
    pub fn most(&self, of: &Node<'_>) -> u64 {
        if of.is_int_or_string() {
            return of.limit("maxLength").map_or(REQUEST - 2, |most| most.saturating_mul(4));
        }
        match of.text("type") {
            "array" => of.limit("maxItems").unwrap_or_else(|| {
                let smallest = of.items().map_or(0, |items| self.smallest(&items));
                (REQUEST - 2) / smallest.saturating_add(1)
            }),
            "object" => match of.values() {
                Some(values) => of
                    .limit("maxProperties")
                    .unwrap_or_else(|| (REQUEST - 2) / self.smallest(&values).saturating_add(6)),
                None => 0,
            },
            "string" => self.longest(of),
            _ => 0,
        }
    }

    fn longest(&self, of: &Node<'_>) -> u64 {
        match of.text("format") {
            "byte" => of.limit("maxLength").unwrap_or(REQUEST - 2),
            "duration" | "date-time" => LONGEST_TIME,
            "date" => DATE,
            // A character may have four bytes.
            _ => match (of.limit("maxLength"), of.schema["enum"].as_array()) {
                (Some(most), _) => most.saturating_mul(4),
                (None, Some(all)) if !all.is_empty() => {
                    all.iter().filter_map(Value::as_str).map(|text| text.len() as u64).max().unwrap_or(0)
                }
                _ => REQUEST - 2,
            },
        }
    }

    /// Bytes of the smallest value, as JSON.
    fn smallest(&self, of: &Node<'_>) -> u64 {
        if of.is_int_or_string() {
            return 1;
        }
        match of.text("type") {
            "boolean" => 4,
            "object" if of.values().is_some() => 2,
            "object" => {
                let key = (std::ptr::from_ref(of.schema) as usize, of.is_resource);
                if let Some(known) = self.smallest.borrow().get(&key) {
                    return *known;
                }
                let size = self.smallest_object(of);
                self.smallest.borrow_mut().insert(key, size);
                size
            }
            "array" => 2,
            "string" => match of.text("format") {
                "duration" => 3,
                "date" => DATE,
                "date-time" => SHORTEST_TIME,
                _ => 2,
            },
            _ => 1,
        }
    }

    /// Fields count that have to be there and have no default.
    fn smallest_object(&self, of: &Node<'_>) -> u64 {
        let required = of.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let properties = of.schema["properties"].as_object();
        let fields = required.filter_map(|name| Some((name, Node::below(properties?.get(name)?))));
        let fields = fields.filter(|(_, field)| field.schema.get("default").is_none() && field.of().is_some());
        fields.fold(2u64, |sum, (name, field)| {
            sum.saturating_add(name.len() as u64).saturating_add(self.smallest(&field)).saturating_add(4)
        })
    }

    /// How many values of a schema fit into one request, where lists and maps around it have no limit.
    pub fn most_in_request(&self, of: &Node<'_>) -> u64 {
        REQUEST / self.smallest(of).saturating_add(1)
    }
}
