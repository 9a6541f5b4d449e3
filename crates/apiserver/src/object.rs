//! Objects as they are kept: canonical JSON bytes and a small parsed head.
//!
//! The bytes begin with `apiVersion`, `kind`, and `metadata` with `resourceVersion` as its first member. The store
//! keeps them with an empty resource version, as it isn't known before the commit; [`Entry::new`] splices it in.

use std::sync::{Arc, OnceLock};

use apimachinery::{FieldSelector, LabelSelector};
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use api::kinds::Absent;
use api::{Kind, protobuf};

use crate::cache::EventType;

const VERSION_MARK: &[u8] = b"\"resourceVersion\":\"";

/// Writes the canonical form, with an empty resource version.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = serde_json::Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let field = |out: &mut Vec<u8>, key: &str, value: &Value| {
        // Writing JSON into memory can't fail.
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        let _ = serde_json::to_writer(&mut *out, value);
    };
    out.push(b'{');
    for key in ["apiVersion", "kind"] {
        field(&mut out, key, map.get(key).unwrap_or(&Value::Null));
        out.push(b',');
    }
    out.extend_from_slice(b"\"metadata\":{");
    out.extend_from_slice(VERSION_MARK);
    out.push(b'"');
    for (key, value) in map.get("metadata").and_then(Value::as_object).unwrap_or(&empty) {
        if key != "resourceVersion" {
            out.push(b',');
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in map {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            out.push(b',');
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    out.into()
}

/// Puts `revision` where the canonical form has its resource version.
pub fn splice(canonical: &[u8], revision: u64) -> Bytes {
    splice_between(b"", canonical, revision, b"")
}

fn splice_between(before: &[u8], canonical: &[u8], revision: u64, after: &[u8]) -> Bytes {
    let (head, tail) = match canonical.windows(VERSION_MARK.len()).position(|w| w == VERSION_MARK) {
        Some(at) => {
            let start = at + VERSION_MARK.len();
            let end = start + canonical[start..].iter().position(|b| *b == b'"').unwrap_or(0);
            (&canonical[..start], &canonical[end..])
        }
        None => (canonical, &[][..]),
    };
    let revision = if tail.is_empty() { String::new() } else { revision.to_string() };
    let mut out = BytesMut::with_capacity(before.len() + canonical.len() + revision.len() + after.len());
    for part in [before, head, revision.as_bytes(), tail, after] {
        out.put_slice(part);
    }
    out.freeze()
}

/// What stands around an object in a line of a watch.
pub fn around(event: EventType) -> (&'static [u8], &'static [u8]) {
    let before: &[u8] = match event {
        EventType::Added => br#"{"type":"ADDED","object":"#,
        EventType::Modified => br#"{"type":"MODIFIED","object":"#,
        EventType::Deleted => br#"{"type":"DELETED","object":"#,
    };
    (before, b"}\n")
}

/// The canonical form under another `apiVersion`; versions of a custom kind differ in nothing else.
pub fn with_version(canonical: &Bytes, version: &str) -> Bytes {
    const MARK: &[u8] = br#"{"apiVersion":""#;
    let Some(rest) = canonical.strip_prefix(MARK) else { return canonical.clone() };
    let end = rest.iter().position(|b| *b == b'"').unwrap_or(0);
    if &rest[..end] == version.as_bytes() {
        return canonical.clone();
    }
    let mut out = BytesMut::with_capacity(canonical.len() + version.len());
    out.put_slice(MARK);
    out.put_slice(version.as_bytes());
    out.put_slice(&rest[end..]);
    out.freeze()
}

pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// An object in the cache. Immutable; a change makes a new one.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name`, or `name`.
    pub key: Arc<str>,
    pub revision: u64,
    /// Canonical JSON with its resource version; a part of `line`.
    pub bytes: Bytes,
    /// The line of a watch that tells how the object came to be so.
    line: Bytes,
    told_as: EventType,
    pub labels: Labels,
    /// Values of the kind's selectable fields, in the order of [`Kind::selectable`].
    fields: Box<[Box<str>]>,
    message: OnceLock<Message>,
}

/// A line of a watch, and the object in it.
fn lines(event: EventType, canonical: &[u8], revision: u64) -> (Bytes, Bytes) {
    let (before, after) = around(event);
    let line = splice_between(before, canonical, revision, after);
    let bytes = line.slice(before.len()..line.len() - after.len());
    (line, bytes)
}

/// An object as protobuf, without its envelope.
#[derive(Debug)]
pub struct Message {
    pub bytes: Box<[u8]>,
    /// Whether all fields of the object are in it.
    pub complete: bool,
}

impl Entry {
    pub fn new(kind: &Kind, key: Arc<str>, canonical: &[u8], revision: u64) -> Self {
        Self::told(EventType::Added, kind, key, canonical, revision)
    }

    /// An object that most watchers will be told of as `event`.
    pub fn told(event: EventType, kind: &Kind, key: Arc<str>, canonical: &[u8], revision: u64) -> Self {
        let (line, bytes) = lines(event, canonical, revision);
        let (labels, fields) = read_head(kind, &bytes);
        Entry { key, revision, bytes, line, told_as: event, labels, fields, message: OnceLock::new() }
    }

    /// The line of a watch for this object. Costs nothing if it is the one that most watchers get.
    pub fn line(&self, event: EventType) -> Bytes {
        if event == self.told_as {
            return self.line.clone();
        }
        let (before, after) = around(event);
        Bytes::from([before, &self.bytes, after].concat())
    }

    /// The same object as it was when it went away at `revision`.
    pub fn deleted(&self, revision: u64) -> Self {
        let (line, bytes) = lines(EventType::Deleted, &self.bytes, revision);
        Entry {
            key: self.key.clone(),
            revision,
            bytes,
            line,
            told_as: EventType::Deleted,
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

    /// The same object with other content, as a conversion made it; it is chosen by what it has in the cache.
    pub fn with_content(&self, canonical: &[u8]) -> Arc<Self> {
        Arc::new(self.with_bytes(canonical, self.labels.clone(), self.fields.clone()))
    }

    fn with_bytes(&self, canonical: &[u8], labels: Labels, fields: Box<[Box<str>]>) -> Self {
        let (line, bytes) = lines(self.told_as, canonical, self.revision);
        let (key, revision, told_as, message) = (self.key.clone(), self.revision, self.told_as, OnceLock::new());
        Entry { key, revision, bytes, line, told_as, labels, fields, message }
    }

    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or("")
    }

    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

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

    /// The object as protobuf; made once, when somebody wants it.
    pub fn protobuf(&self, kind: &Kind) -> &Message {
        self.message.get_or_init(|| {
            let (bytes, complete) = protobuf::object_message(kind, &self.parse());
            Message { bytes: bytes.into(), complete }
        })
    }

    pub fn parse(&self) -> Value {
        // These bytes were written by `encode`.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

/// What a list or watch is limited to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty for all namespaces.
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    pub fn matches(&self, kind: &Kind, entry: &Entry) -> bool {
        (self.namespace.is_empty() || self.namespace == entry.namespace())
            && self.labels.matches(|k| entry.label(k))
            && self.fields.matches(|path| entry.field(kind.kept_as().unwrap_or(kind), path))
    }

    pub fn is_everything(&self) -> bool {
        self.namespace.is_empty() && self.labels.is_empty() && self.fields.is_empty()
    }
}

type Head = (Box<[(Box<str>, Box<str>)]>, Box<[Box<str>]>);

/// Reads labels and selectable fields, skipping all else without building it.
fn read_head(kind: &Kind, bytes: &[u8]) -> Head {
    let selected: Vec<(&str, Absent)> = kind.selectable.iter().map(|name| kind.strategy.selected(name)).collect();
    let mut paths: Vec<Vec<&str>> = selected.iter().map(|(path, _)| path.split('.').collect()).collect();
    paths.push(vec!["metadata", "labels", "*"]);
    let absent = |(_, absent): &(&str, Absent)| match *absent {
        Absent::Is(value) => value.into(),
        Absent::As(_) => "".into(),
    };
    let mut found = Found { fields: selected.iter().map(absent).collect(), labels: Vec::new() };
    let walk = Walk { paths: &paths, indices: (0..paths.len()).collect(), depth: 0, label: None, found: &mut found };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let _ = walk.deserialize(&mut deserializer);
    for (i, (_, absent)) in selected.iter().enumerate() {
        if let Absent::As(other) = absent
            && found.fields[i].is_empty()
            && let Some(other) = kind.selectable.iter().position(|name| name == other)
        {
            found.fields[i] = found.fields[other].clone();
        }
    }
    (found.labels.into(), found.fields.into())
}

struct Found {
    fields: Vec<Box<str>>,
    labels: Vec<(Box<str>, Box<str>)>,
}

/// Visits the members that lie on one of the paths.
struct Walk<'a> {
    paths: &'a [Vec<&'a str>],
    /// The paths that lead here.
    indices: Vec<usize>,
    depth: usize,
    label: Option<Box<str>>,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn leaf(self, text: &str) {
        if let Some(label) = self.label {
            self.found.labels.push((label, text.into()));
            return;
        }
        for i in self.indices {
            if self.paths[i].len() == self.depth && i < self.found.fields.len() {
                self.found.fields[i] = text.into();
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.leaf(text);
        Ok(())
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.leaf(if v { "true" } else { "false" });
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.leaf(&v.to_string());
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.leaf(&v.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Walk { paths, indices, depth, found, .. } = self;
        while let Some(key) = map.next_key_seed(Key)? {
            let next: Vec<usize> = indices
                .iter()
                .copied()
                .filter(|i| paths[*i].get(depth).is_some_and(|p| *p == key.as_ref() || *p == "*"))
                .collect();
            if next.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let label = next.iter().any(|i| paths[*i].get(depth) == Some(&"*")).then(|| key.into());
            map.next_value_seed(Walk { paths, indices: next, depth: depth + 1, label, found: &mut *found })?;
        }
        Ok(())
    }
}

struct Key;
impl<'de> DeserializeSeed<'de> for Key {
    type Value = std::borrow::Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        std::borrow::Cow::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x", "tier": "y"}, "resourceVersion": "5"},
               "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": [{"name": "c"}]},
               "status": {"phase": "Running"}})
    }

    #[test]
    fn canonical_form_takes_a_revision_without_being_parsed() {
        let canonical = encode(&pod());
        assert!(canonical.starts_with(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"","#));
        let parsed: Value = serde_json::from_slice(&splice(&canonical, 42)).unwrap();
        let mut want = pod();
        want["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(parsed, want);
        assert_eq!(splice(&splice(&canonical, 42), 7), splice(&canonical, 7));
    }

    #[test]
    fn head_holds_labels_and_selectable_fields() {
        let kind = api::kinds::PODS;
        let entry = Entry::new(kind, "n/a".into(), &encode(&pod()), 3);
        assert_eq!(entry.label("tier"), Some("y"));
        assert_eq!(entry.field(kind, "spec.nodeName"), "node-1");
        assert_eq!(entry.field(kind, "status.phase"), "Running");
        assert_eq!(entry.field(kind, "spec.hostNetwork"), "true");
        assert_eq!(entry.field(kind, "status.podIP"), "");
        assert_eq!((entry.namespace(), entry.name()), ("n", "a"));
    }

    #[test]
    fn events_are_chosen_by_their_source_or_by_who_reports_them() {
        let kind = api::kinds::EVENTS;
        let source = |event: Value| {
            let mut event = event;
            event["metadata"] = json!({"name": "e", "namespace": "n"});
            Entry::new(kind, "n/e".into(), &encode(&event), 3).field(kind, "source").to_string()
        };
        assert_eq!(source(json!({"source": {"component": "kubelet"}, "reportingComponent": "other"})), "kubelet");
        assert_eq!(
            source(json!({"source": {}, "reportingComponent": "example.com/controller"})),
            "example.com/controller"
        );
        assert_eq!(source(json!({"reason": "Started"})), "");
    }

    #[test]
    fn selectable_fields_that_an_object_lacks_have_the_value_that_go_has() {
        for (kind, field, want) in [
            (api::kinds::PODS, "spec.hostNetwork", "false"),
            (api::kinds::NODES, "spec.unschedulable", "false"),
            (api::kinds::REPLICA_SETS, "status.replicas", "0"),
            (api::kinds::REPLICATION_CONTROLLERS, "status.replicas", "0"),
            (api::kinds::JOBS, "status.successful", "0"),
            (api::kinds::PODS, "spec.nodeName", ""),
        ] {
            let entry = Entry::new(kind, "n/a".into(), &encode(&json!({"metadata": {"name": "a"}})), 3);
            assert_eq!(entry.field(kind, field), want, "{kind:?} {field}");
        }
        let job = json!({"metadata": {"name": "a"}, "status": {"succeeded": 2}});
        let entry = Entry::new(api::kinds::JOBS, "n/a".into(), &encode(&job), 3);
        assert_eq!(entry.field(api::kinds::JOBS, "status.successful"), "2");
    }
}
