//! YAML as Kubernetes reads and writes it: `sigs.k8s.io/yaml`, that is YAML 1.1's scalars (`yes`, `0400`, merge keys),
//! made into JSON. The one reader for bodies of requests, manifests, static pods and configuration.
//!
//! What strangers send is bounded ([`crate::bounded`]): aliases count as what they repeat. Nothing here calls itself.

mod scalar;
mod typed;
mod write;

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::bounded::{Budget, Exceeded, Limits, Measure, OBJECT_COST};
use scalar::Scalar;
pub use write::write;

/// How many keys that stand twice are told of (upstream's strict decoder tells of as many).
const MAX_REPORTED_FIELDS: usize = 100;

/// Why a document can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It isn't YAML.
    #[error("yaml: {0}")]
    Syntax(String),
    /// What stands in this line isn't served: a tag, a key that isn't a text, an unknown alias.
    #[error("yaml: line {0}: {1}")]
    Content(usize, String),
    /// It has more values, or is deeper, than is read.
    #[error("yaml: {0}")]
    Exceeded(#[from] Exceeded),
    /// Its values don't fit the type that it is read as.
    #[error("{0}")]
    Type(String),
}

/// A document as JSON.
#[derive(Debug, Default, PartialEq)]
pub struct Document {
    /// The document itself.
    pub value: Value,
    /// The keys that stand twice in one object, in upstream's words.
    pub duplicates: Vec<String>,
}

/// Reads the first document; what comes after it isn't looked at, as upstream doesn't. Nothing at all is null.
///
/// # Errors
/// When the text is no YAML, can't be JSON, or exceeds `limits`.
pub fn first(text: &[u8], limits: Limits) -> Result<Document, YamlError> {
    Ok(Reader::new(text, limits)?.next()?.unwrap_or_default())
}

/// Reads all documents, which share the limits; empty ones are left out.
///
/// # Errors
/// As [`first`].
pub fn all(text: &[u8], limits: Limits) -> Result<Vec<Document>, YamlError> {
    let mut reader = Reader::new(text, limits)?;
    let mut documents = Vec::new();
    while let Some(document) = reader.next()? {
        if !document.value.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

/// Reads a file of one document into a type.
///
/// # Errors
/// As [`first`], when a key stands twice, and when the document isn't of the type.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let document = first(text.as_bytes(), Limits::FILE)?;
    if let Some(duplicate) = document.duplicates.first() {
        return Err(YamlError::Syntax(duplicate.clone()));
    }
    T::deserialize(typed::Typed(document.value)).map_err(|e| YamlError::Type(e.to_string()))
}

/// A collection that isn't closed yet.
struct Open {
    anchor: usize,
    held: Held,
}

enum Held {
    List(Vec<Value>),
    Map { map: Map<String, Value>, key: Option<Key> },
}

/// A key of an object.
enum Key {
    Named(String),
    /// `<<`: the value's members become members of the object.
    Merge,
}

/// A value that an alias may repeat, and what it costs.
struct Anchored {
    value: Value,
    cost: Measure,
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    budget: Budget,
    anchors: HashMap<usize, Anchored>,
    open: Vec<Open>,
    duplicates: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a [u8], limits: Limits) -> Result<Self, YamlError> {
        let budget = Budget::new(limits, text.len())?;
        let text = std::str::from_utf8(text).map_err(|e| YamlError::Syntax(format!("invalid UTF-8: {e}")))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: limits.depth,
            block_nesting_limit: limits.depth,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Ok(Reader { parser, budget, anchors: HashMap::new(), open: Vec::new(), duplicates: Vec::new() })
    }

    /// The next document; none at the end.
    fn next(&mut self) -> Result<Option<Document>, YamlError> {
        self.anchors.clear();
        let mut root = None;
        loop {
            let Some(event) = self.parser.next() else { return Ok(None) };
            let (event, span) = event.map_err(|e| YamlError::Syntax(e.to_string()))?;
            let line = span.start.line();
            let done = match event {
                Event::StreamEnd => return Ok(None),
                Event::DocumentEnd => {
                    let duplicates = std::mem::take(&mut self.duplicates);
                    return Ok(Some(Document { value: root.unwrap_or_default(), duplicates }));
                }
                Event::SequenceStart(_, anchor, _) => {
                    self.begin(anchor, Held::List(Vec::new()))?;
                    None
                }
                Event::MappingStart(_, anchor, _) => {
                    self.begin(anchor, Held::Map { map: Map::new(), key: None })?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(line)?,
                Event::Scalar(text, style, anchor, tag) => {
                    self.budget.spend(1, text.len())?;
                    let scalar = resolve(&text, style, tag.as_deref(), line)?;
                    self.scalar(scalar, anchor, line)?
                }
                Event::Alias(anchor) => self.alias(anchor, line)?,
                _ => None,
            };
            if let Some(value) = done {
                root = Some(value);
            }
        }
    }

    fn begin(&mut self, anchor: usize, held: Held) -> Result<(), YamlError> {
        self.budget.spend(if matches!(held, Held::List(_)) { 1 } else { OBJECT_COST }, 0)?;
        self.budget.nest(self.open.len().saturating_add(1))?;
        self.open.push(Open { anchor, held });
        Ok(())
    }

    /// Closes a collection. Returns it if it is the whole document.
    fn end(&mut self, line: usize) -> Result<Option<Value>, YamlError> {
        let Some(Open { anchor, held }) = self.open.pop() else { return Ok(None) };
        let value = match held {
            Held::List(items) => Value::Array(items),
            Held::Map { map, .. } => Value::Object(map),
        };
        self.remember(anchor, &value)?;
        self.put(value, line)
    }

    fn scalar(&mut self, scalar: Scalar, anchor: usize, line: usize) -> Result<Option<Value>, YamlError> {
        if let Some(Open { held: Held::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            *key = Some(match &scalar {
                Scalar::Merge => Key::Merge,
                other => Key::Named(other.as_key().ok_or_else(|| unfit_key(line))?),
            });
            let value = scalar.into_json().map_err(|why| YamlError::Content(line, why))?;
            self.remember(anchor, &value)?;
            return Ok(None);
        }
        let value = scalar.into_json().map_err(|why| YamlError::Content(line, why))?;
        self.remember(anchor, &value)?;
        self.put(value, line)
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Option<Value>, YamlError> {
        let Some(found) = self.anchors.get(&anchor) else {
            return Err(YamlError::Content(line, "an anchor's value contains itself".into()));
        };
        self.budget.spend(found.cost.values, found.cost.bytes)?;
        self.budget.nest(self.open.len().saturating_add(found.cost.depth))?;
        let value = found.value.clone();
        if let Some(Open { held: Held::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            let named = match &value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return Err(unfit_key(line)),
            };
            *key = Some(Key::Named(named));
            return Ok(None);
        }
        self.put(value, line)
    }

    /// Keeps a value that has an anchor. The copy counts, too.
    fn remember(&mut self, anchor: usize, value: &Value) -> Result<(), YamlError> {
        if anchor == 0 {
            return Ok(());
        }
        let cost = Measure::of(value);
        self.budget.spend(cost.values, cost.bytes)?;
        self.anchors.insert(anchor, Anchored { value: value.clone(), cost });
        Ok(())
    }

    /// Puts a value where it stands. Returns it if it is the whole document.
    fn put(&mut self, value: Value, line: usize) -> Result<Option<Value>, YamlError> {
        match self.open.last_mut() {
            None => return Ok(Some(value)),
            Some(Open { held: Held::List(items), .. }) => items.push(value),
            Some(Open { held: Held::Map { map, key }, .. }) => match key.take() {
                Some(Key::Named(key)) => set(map, key, value, line, &mut self.duplicates),
                Some(Key::Merge) => merge(map, value, line, &mut self.duplicates)?,
                None => return Err(unfit_key(line)),
            },
        }
        Ok(None)
    }
}

fn unfit_key(line: usize) -> YamlError {
    YamlError::Content(line, "a key must be a text, a number or a boolean".into())
}

fn set(map: &mut Map<String, Value>, key: String, value: Value, line: usize, duplicates: &mut Vec<String>) {
    if duplicates.len() < MAX_REPORTED_FIELDS && map.contains_key(&key) {
        let shown: String = key.chars().take(256).collect();
        duplicates.push(format!("line {line}: key {shown:?} already set in map"));
    }
    map.insert(key, value);
}

/// The members of the object, or of a list of objects, of which earlier ones come first.
fn merge(
    map: &mut Map<String, Value>,
    value: Value,
    line: usize,
    duplicates: &mut Vec<String>,
) -> Result<(), YamlError> {
    let refuse = || YamlError::Content(line, "map merge requires map or sequence of maps as the value".into());
    let members = match value {
        Value::Object(members) => vec![Value::Object(members)],
        Value::Array(items) => items.into_iter().rev().collect(),
        _ => return Err(refuse()),
    };
    for member in members {
        let Value::Object(member) = member else { return Err(refuse()) };
        for (key, value) in member {
            set(map, key, value, line, duplicates);
        }
    }
    Ok(())
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Scalar, YamlError> {
    const CORE: &str = "tag:yaml.org,2002:";
    let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
    let plain = style == ScalarStyle::Plain;
    match tag.as_deref() {
        None if plain => Ok(scalar::read(text)),
        None | Some("!") => Ok(Scalar::Text(text.into())),
        Some(tag) => match tag.strip_prefix(CORE).or_else(|| tag.strip_prefix("!!")) {
            Some(kind) => scalar::read_as(kind, text).map_err(|why| YamlError::Content(line, why)),
            None => Ok(Scalar::Text(text.into())),
        },
    }
}

#[cfg(test)]
mod tests;
