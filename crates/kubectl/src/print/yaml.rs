//! YAML as `sigs.k8s.io/yaml` writes it: keys sorted, lists not indented, long lines folded at spaces after column 80.

use serde_json::Value;

use apimachinery::yaml as reader;
use bounded::Limits;

/// From here on a line is folded at the next space.
const WIDTH: usize = 80;

/// A document.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, At::Top);
    out
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Top,
    /// After `key:`; the indentation is that of the key's mapping.
    Key,
    /// After `- `; the indentation is that of the dash.
    Dash,
}

/// Not deeper than values are: what is read is bounded.
fn node(out: &mut String, value: &Value, indent: usize, at: At) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let inner = match at {
                At::Top => indent,
                At::Key | At::Dash => indent.saturating_add(2),
            };
            if at == At::Key {
                out.push('\n');
            }
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 || at != At::Dash {
                    spaces(out, inner);
                }
                out.push_str(&key_text(key));
                out.push(':');
                child(out, value, inner);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            if at == At::Key {
                out.push('\n');
            }
            let own = if at == At::Dash { indent.saturating_add(2) } else { indent };
            for (i, item) in items.iter().enumerate() {
                if i > 0 || at != At::Dash {
                    spaces(out, own);
                }
                out.push_str("- ");
                node(out, item, own, At::Dash);
            }
        }
        other => {
            scalar(out, other, indent, at);
            out.push('\n');
        }
    }
}

fn child(out: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if !nested {
        out.push(' ');
    }
    node(out, value, indent, At::Key);
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// How many characters the last line has.
fn column(out: &str) -> usize {
    out.rsplit('\n').next().unwrap_or("").chars().count()
}

fn key_text(key: &str) -> String {
    if key.is_empty() || !plain_allowed(key) {
        return single(key, 0, &mut 0, false);
    }
    if resolves(key) { format!("\"{key}\"") } else { key.into() }
}

fn scalar(out: &mut String, value: &Value, indent: usize, at: At) {
    let fold = if at == At::Top { 0 } else { indent.saturating_add(2) };
    match value {
        Value::String(text) => {
            if text.contains('\n') && literal_allowed(text) {
                literal(out, text, fold);
                return;
            }
            let mut at = column(out);
            let written = if text.is_empty() {
                "\"\"".into()
            } else if needs_double(text) {
                double(text, fold, &mut at)
            } else if resolves(text) {
                format!("\"{text}\"")
            } else if plain_allowed(text) {
                folded(text, fold, &mut at)
            } else {
                single(text, fold, &mut at, true)
            };
            out.push_str(&written);
        }
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

/// Whether the text, written plain, would be read as something else than a text.
fn resolves(text: &str) -> bool {
    // The old boolean words count, too.
    let words = ["y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"];
    if words.contains(&text) || text == "<<" || text == "=" {
        return true;
    }
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || "+-.tTfFnN~".contains(c));
    begins && plain_allowed(text) && reader::first(text.as_bytes(), Limits::FILE).is_ok_and(|d| !d.value.is_string())
        || is_timestamp(text)
}

/// Whether a text is a date, or a date with a time.
fn is_timestamp(text: &str) -> bool {
    let shape = |part: &str| part.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
    let (Some(date), Some(rest)) = (text.get(..10), text.get(10..)) else { return false };
    if shape(date) != "0000-00-00" || rest.is_empty() {
        return shape(date) == "0000-00-00";
    }
    let Some(time) = rest.strip_prefix(['T', 't', ' ']) else { return false };
    let (Some(clock), Some(tail)) = (time.get(..8), time.get(8..)) else { return false };
    let tail = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    shape(clock) == "00:00:00"
        && (tail.is_empty() || tail == "Z" || ["+00:00", "-00:00"].contains(&shape(tail).as_str()))
}

fn plain_allowed(text: &str) -> bool {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return false };
    let second = chars.next();
    let opens = matches!(first, '-' | '?' | ':') && second.is_none_or(|c| c == ' ');
    if opens
        || ",[]{}#&*!|>'\"%@` ".contains(first)
        || text.ends_with(' ')
        || text.starts_with("---")
        || text.starts_with("...")
    {
        return false;
    }
    !(text.contains(": ")
        || text.ends_with(':')
        || text.contains(" #")
        || text.contains('\n')
        || text.chars().any(is_special))
}

fn is_special(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}')
        || u32::from(c) > 0xffff
}

fn needs_double(text: &str) -> bool {
    let spaced_break = text.contains(" \n") || text.contains("\n ") && !literal_allowed(text);
    text.chars().any(is_special) || spaced_break && text.contains('\n')
}

fn literal_allowed(text: &str) -> bool {
    !text.chars().any(is_special) && !text.starts_with(' ') || (!text.chars().any(is_special) && text.trim() != "")
}

fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    let chomp = match text.len().saturating_sub(body.len()) {
        0 => "-",
        1 if !body.is_empty() => "",
        _ => "+",
    };
    let hint = if text.starts_with([' ', '\n']) { "2" } else { "" };
    out.push('|');
    out.push_str(hint);
    out.push_str(chomp);
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            spaces(out, indent);
            out.push_str(line);
        }
    }
}

/// A text that is folded at single spaces after the width.
fn folded(written: &str, indent: usize, at: &mut usize) -> String {
    let mut out = String::with_capacity(written.len());
    let chars: Vec<char> = written.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let alone = *c == ' '
            && chars.get(i.wrapping_sub(1)) != Some(&' ')
            && chars.get(i.saturating_add(1)).is_some_and(|n| *n != ' ');
        if alone && *at > WIDTH && i > 0 {
            out.push('\n');
            spaces(&mut out, indent);
            *at = indent;
        } else {
            out.push(*c);
            *at = at.saturating_add(1);
        }
    }
    out
}

fn single(text: &str, indent: usize, at: &mut usize, folds: bool) -> String {
    let quoted = text.replace('\'', "''");
    if !folds {
        return format!("'{quoted}'");
    }
    *at = at.saturating_add(1);
    // A space at the edge of the text is never where a line ends.
    let inner = folded(&quoted, indent, at);
    format!("'{inner}'")
}

fn double(text: &str, indent: usize, at: &mut usize) -> String {
    let mut out = String::from("\"");
    *at = at.saturating_add(1);
    let chars: Vec<char> = text.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let piece = match c {
            '"' => "\\\"".to_string(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\t' => "\\t".into(),
            '\r' => "\\r".into(),
            '\u{1b}' => "\\e".into(),
            '\0' => "\\0".into(),
            '\u{7}' => "\\a".into(),
            '\u{8}' => "\\b".into(),
            '\u{85}' => "\\N".into(),
            '\u{2028}' => "\\L".into(),
            '\u{2029}' => "\\P".into(),
            c if u32::from(*c) > 0xffff => format!("\\U{:08X}", u32::from(*c)),
            '\u{feff}' => "\\uFEFF".into(),
            c if c.is_control() => format!("\\x{:02X}", u32::from(*c)),
            c => c.to_string(),
        };
        let last = i.saturating_add(1) == chars.len();
        if *c == ' ' && *at > WIDTH && i > 0 && !last {
            out.push('\n');
            spaces(&mut out, indent);
            *at = indent;
            // A space after the fold is told by a backslash.
            if chars.get(i.saturating_add(1)) == Some(&' ') {
                out.push('\\');
            }
            continue;
        }
        *at = at.saturating_add(piece.chars().count());
        out.push_str(&piece);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_stand_as_go_writes_them() {
        let value = json!({"a": "true", "b": "1", "c": "x: y", "d": "", "e": [], "f": {}, "g": "a\nb\n", "h": [{"x": 1, "y": [1, [2]]}],
            "i": "it's", "j": "'", "k": "2020-01-01T00:00:00Z", "l": null, "m": "a\tb", "yes": "no", "n": "*"});
        let want = "a: \"true\"\nb: \"1\"\nc: 'x: y'\nd: \"\"\ne: []\nf: {}\ng: |\n  a\n  b\nh:\n- x: 1\n  \"y\":\n  - 1\n  - - 2\ni: it's\nj: ''''\n\
            k: \"2020-01-01T00:00:00Z\"\nl: null\nm: \"a\\tb\"\n\"n\": '*'\n\"yes\": \"no\"\n";
        assert_eq!(write(&value), want);
    }

    #[test]
    fn long_lines_are_folded_at_spaces() {
        let words = "word ".repeat(30);
        let text = write(&json!({"a": {"message": words.trim()}}));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[2].starts_with("    word") && lines[1].len() > 80 && lines[1].len() < 90, "{text}");
        assert_eq!(reader::first(text.as_bytes(), Limits::FILE).unwrap().value["a"]["message"], words.trim());
    }
}
