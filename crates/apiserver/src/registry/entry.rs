//! An object in the watch cache: its canonical bytes, and a head of what lists and watches select by.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use api::{Kind, protobuf};

use super::canonical::{EventType, around, lines, with_version};
use super::head::read_head;

/// Labels: keys with values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// An object in the cache. Immutable; a change makes a new one.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name`, or `name`.
    pub key: Arc<str>,
    pub revision: u64,
    /// Canonical JSON with its resource version; a part of `line`.
    pub bytes: Bytes,
    /// The watch event of the change that made the object what it is.
    line: Bytes,
    line_type: EventType,
    pub labels: Labels,
    /// Values of the kind's selectable fields, in the order of [`Kind::selectable`].
    fields: Box<[Box<str>]>,
    message: OnceLock<Message>,
}

/// An object as protobuf, without its envelope.
#[derive(Debug)]
pub struct Message {
    pub bytes: Box<[u8]>,
    /// Whether all fields of the object are in it.
    pub complete: bool,
}

impl Entry {
    /// An object that is there already.
    pub fn new(kind: &Kind, key: Arc<str>, canonical: &[u8], revision: u64) -> Self {
        Self::after(EventType::Added, kind, key, canonical, revision)
    }

    /// An object after a change of the type `event`, which is what most watchers get.
    pub fn after(event: EventType, kind: &Kind, key: Arc<str>, canonical: &[u8], revision: u64) -> Self {
        let (line, bytes) = lines(event, canonical, revision);
        let (labels, fields) = read_head(kind, &bytes);
        Entry { key, revision, bytes, line, line_type: event, labels, fields, message: OnceLock::new() }
    }

    /// The watch event of the type `event` for this object. Costs nothing if it is the one that most watchers get.
    pub fn line(&self, event: EventType) -> Bytes {
        if event == self.line_type {
            return self.line.clone();
        }
        let (before, after) = around(event);
        Bytes::from([before, &self.bytes, after].concat())
    }

    /// The object as it was last, with the revision at which it was deleted.
    pub fn deleted(&self, revision: u64) -> Self {
        let (line, bytes) = lines(EventType::Deleted, &self.bytes, revision);
        Entry {
            key: self.key.clone(),
            revision,
            bytes,
            line,
            line_type: EventType::Deleted,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            message: OnceLock::new(),
        }
    }

    /// The same object under another version of its kind.
    pub fn in_version(self: &Arc<Self>, version: &str) -> Arc<Self> {
        let bytes = with_version(&self.bytes, version);
        if bytes.as_ptr() == self.bytes.as_ptr() {
            return self.clone();
        }
        let (labels, fields) = (self.labels.clone(), self.fields.clone());
        Arc::new(self.with_bytes(&bytes, labels, fields))
    }

    /// The same object with other content, as a conversion made it; labels and selectable fields stay those of the cache.
    pub fn with_content(&self, canonical: &[u8]) -> Arc<Self> {
        Arc::new(self.with_bytes(canonical, self.labels.clone(), self.fields.clone()))
    }

    fn with_bytes(&self, canonical: &[u8], labels: Labels, fields: Box<[Box<str>]>) -> Self {
        let (line, bytes) = lines(self.line_type, canonical, self.revision);
        let (key, revision, line_type, message) = (self.key.clone(), self.revision, self.line_type, OnceLock::new());
        Entry { key, revision, bytes, line, line_type, labels, fields, message }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or("")
    }

    /// `metadata.namespace`; empty for objects of the cluster.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }

    /// The value of a selectable field.
    pub fn field(&self, kind: &Kind, path: &str) -> &str {
        match path {
            "metadata.name" => self.name(),
            "metadata.namespace" => self.namespace(),
            _ => match kind.selectable.iter().position(|p| *p == path) {
                Some(i) => self.fields.get(i).map_or("", AsRef::as_ref),
                None => "",
            },
        }
    }

    /// The object as protobuf; encoded once, when a client first wants it.
    pub fn protobuf(&self, kind: &Kind) -> &Message {
        self.message.get_or_init(|| {
            let (bytes, complete) = protobuf::object_message(kind, &self.parse());
            Message { bytes: bytes.into(), complete }
        })
    }

    /// Bytes that it keeps in memory.
    pub(super) fn weight(&self) -> usize {
        self.line.len().saturating_add(self.message.get().map_or(0, |message| message.bytes.len()))
    }

    /// The whole object, parsed.
    pub fn parse(&self) -> Value {
        // These bytes were written by `encode`.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}
