//! JSON as Go's `encoding/json` writes it, and so upstream: in texts `<`, `>`, `&`, U+2028 and U+2029 are escaped.

use std::io;

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Compact, with Go's escapes.
struct GoFormatter;

impl Formatter for GoFormatter {
    /// Called for what `serde_json` needn't escape.
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let (mut written, mut at) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (code, length) = match rest {
                [special @ (b'<' | b'>' | b'&'), ..] => (u32::from(*special), 1),
                [0xe2, 0x80, 0xa8, ..] => (0x2028, 3),
                [0xe2, 0x80, 0xa9, ..] => (0x2029, 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            writer.write_all(&bytes[written..at])?;
            write!(writer, "\\u{code:04x}")?;
            at += length;
            written = at;
        }
        writer.write_all(&bytes[written..])
    }
}

/// Appends a value to `out`.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    // Writing a `Value` into memory can't fail.
    let _ = value.serialize(&mut Serializer::with_formatter(out, GoFormatter));
}

/// Appends a text, with its quotes, to `out`.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    let _ = text.serialize(&mut Serializer::with_formatter(out, GoFormatter));
}

/// A value as bytes.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        for (text, want) in [
            ("a<b>&c", r#""a\u003cb\u003e\u0026c""#),
            ("<<", r#""\u003c\u003c""#),
            ("\u{2028}x\u{2029}", r#""\u2028x\u2029""#),
            ("\"\\\n\t\u{8}\u{c}\u{1}", r#""\"\\\n\t\b\f\u0001""#),
            ("\u{7f}\u{e4}\u{1f600}/'", "\"\u{7f}\u{e4}\u{1f600}/'\""),
            ("", r#""""#),
        ] {
            let value = json!({ text: [text] });
            assert_eq!(String::from_utf8(to_vec(&value)).unwrap(), format!("{{{want}:[{want}]}}"));
            assert_eq!(serde_json::from_slice::<Value>(&to_vec(&value)).unwrap(), value);
        }
    }
}
