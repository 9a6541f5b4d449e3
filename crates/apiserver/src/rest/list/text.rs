//! What stands around the items of a list, in each form.

use api::protobuf;
use apimachinery::yaml;
use serde_json::{Value, json};

use super::{Answer, Rows};
use crate::json;
use crate::render::table_by;
use crate::request::ResourceRequest;

/// What stands around the items.
pub(super) struct Text {
    pub head: Vec<u8>,
    /// Before the first item.
    pub open: &'static [u8],
    /// Instead of items.
    pub empty: &'static [u8],
    pub tail: Vec<u8>,
}

impl Text {
    pub fn around(info: &ResourceRequest, rows: &Rows, answer: &Answer) -> Self {
        let (kind, revision) = (info.kind, answer.revision);
        let more = answer.more.as_ref().map(|(token, left)| (token.as_str(), *left));
        if let Rows::Protobuf { size } = rows {
            let head = protobuf::list_head(kind, revision, more, *size);
            return Text { head, open: b"", empty: b"", tail: Vec::new() };
        }
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some((token, left)) = more {
            metadata["continue"] = token.into();
            if let Some(left) = left {
                metadata["remainingItemCount"] = left.into();
            }
        }
        let (whole, items) = match rows {
            Rows::Table(version, printer) => (table_by(printer, info, version, &[], metadata), "rows"),
            Rows::Partial(version) => {
                let kind = "PartialObjectMetadataList";
                (json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": []}), "items")
            }
            Rows::Json | Rows::Protobuf { .. } => {
                let (kind, version) = (format!("{}List", kind.kind), kind.api_version());
                (json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": []}), "items")
            }
        };
        if answer.yaml {
            return Self::yaml_around(&whole, items);
        }
        if !matches!(rows, Rows::Json) {
            return Self::json_around(&whole, items);
        }
        let left = |left: Option<usize>| left.map_or(String::new(), |left| format!(",\"remainingItemCount\":{left}"));
        let more = more.map_or(String::new(), |(token, rest)| format!(",\"continue\":\"{token}\"{}", left(rest)));
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"{more}}},\"items\":[",
            kind.kind,
            kind.api_version()
        );
        Text { head: head.into(), open: b"", empty: b"", tail: b"]}\n".into() }
    }

    /// What of an object stands before and after the elements of one of its arrays.
    fn json_around(whole: &Value, array: &str) -> Self {
        let mut parts = [b"{".to_vec(), b"]".to_vec()];
        let (mut at, mut is_first) = (0, true);
        for (key, value) in whole.as_object().into_iter().flatten() {
            let out = &mut parts[at];
            if !is_first {
                out.push(b',');
            }
            is_first = false;
            json::write_text(out, key);
            out.push(b':');
            if key == array {
                out.push(b'[');
                at = 1;
            } else {
                json::write(out, value);
            }
        }
        let [head, mut tail] = parts;
        tail.push(b'}');
        Text { head, open: b"", empty: b"", tail }
    }

    fn yaml_around(whole: &Value, array: &'static str) -> Self {
        let mut parts = [Vec::new(), Vec::new()];
        let mut at = 0;
        for (key, value) in whole.as_object().into_iter().flatten() {
            if key == array {
                at = 1;
            } else {
                parts[at].extend_from_slice(yaml::write(&json!({ key: value })).as_bytes());
            }
        }
        let [head, tail] = parts;
        let (open, empty): (&[u8], &[u8]) = match array {
            "rows" => (b"rows:\n", b"rows: []\n"),
            _ => (b"items:\n", b"items: []\n"),
        };
        Text { head, open, empty, tail }
    }
}
