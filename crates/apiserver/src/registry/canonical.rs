//! The canonical form in which objects are stored, and the lines of watches that are made of it.
//!
//! The bytes begin with `apiVersion`, `kind`, and `metadata` with `resourceVersion` as its first member. The store
//! keeps them with an empty resource version, as it isn't known before the commit; [`splice`] puts it in without parsing.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::Value;

use crate::json;

/// The type of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    /// As watches write it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

const VERSION_MARK: &[u8] = b"\"resourceVersion\":\"";

/// Writes the canonical form, with an empty resource version.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = serde_json::Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let field = |out: &mut Vec<u8>, key: &str, value: &Value| {
        json::write_text(out, key);
        out.push(b':');
        json::write(out, value);
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
pub(super) fn around(event: EventType) -> (&'static [u8], &'static [u8]) {
    let before: &[u8] = match event {
        EventType::Added => br#"{"type":"ADDED","object":"#,
        EventType::Modified => br#"{"type":"MODIFIED","object":"#,
        EventType::Deleted => br#"{"type":"DELETED","object":"#,
    };
    (before, b"}\n")
}

/// A line of a watch, and the object in it.
pub(super) fn lines(event: EventType, canonical: &[u8], revision: u64) -> (Bytes, Bytes) {
    let (before, after) = around(event);
    let line = splice_between(before, canonical, revision, after);
    let bytes = line.slice(before.len()..line.len() - after.len());
    (line, bytes)
}

/// A line of a watch.
pub fn frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + event.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

/// The canonical form under another `apiVersion`; versions of a custom kind differ in nothing else.
pub(super) fn with_version(canonical: &Bytes, version: &str) -> Bytes {
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

#[cfg(test)]
mod tests {
    use super::super::fixtures::pod;
    use super::*;

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
}
