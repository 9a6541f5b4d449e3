//! Writing: block style, lists not indented below their key, as `kubectl -o yaml` prints.

use serde_json::Value;

use super::scalar::is_plain_text;

/// A value on its way out, and what stands before it.
enum Step<'a> {
    Text(String),
    /// A value that follows a key (`after` a colon) or a dash.
    Value {
        value: &'a Value,
        indent: usize,
        after: After,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Colon,
    Dash,
}

/// Writes a document. Nothing here calls itself.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    let mut steps = vec![Step::Value { value, indent: 0, after: After::Nothing }];
    while let Some(step) = steps.pop() {
        match step {
            Step::Text(text) => out.push_str(&text),
            Step::Value { value: Value::Object(map), indent, after } if !map.is_empty() => {
                let begin = steps.len();
                for (i, (key, value)) in map.iter().enumerate() {
                    let lead = lead(i, indent, after);
                    steps.push(Step::Text(format!("{lead}{}:", scalar(key, None))));
                    steps.push(Step::Value { value, indent, after: After::Colon });
                }
                steps[begin..].reverse();
                deeper(&mut steps[begin..], after);
            }
            Step::Value { value: Value::Array(items), indent, after } if !items.is_empty() => {
                let begin = steps.len();
                for (i, value) in items.iter().enumerate() {
                    steps.push(Step::Text(format!("{}-", lead(i, indent, after))));
                    steps.push(Step::Value { value, indent: indent.saturating_add(2), after: After::Dash });
                }
                steps[begin..].reverse();
            }
            Step::Value { value, indent, after } => {
                if after != After::Nothing {
                    out.push(' ');
                }
                match value {
                    Value::String(text) => out.push_str(&scalar(text, Some(indent))),
                    Value::Object(_) => out.push_str("{}"),
                    other => out.push_str(&other.to_string()),
                }
                out.push('\n');
            }
        }
    }
    out
}

/// What stands before the member of a collection: the first of one in a list is on the dash's line.
fn lead(i: usize, indent: usize, after: After) -> String {
    match (i, after) {
        (0, After::Dash) => " ".into(),
        (0, After::Colon) => format!("\n{}", " ".repeat(indent)),
        _ => " ".repeat(indent),
    }
}

/// Objects below a key stand two columns to the right of it; lists don't.
fn deeper(steps: &mut [Step<'_>], after: After) {
    if after != After::Colon {
        return;
    }
    for step in steps {
        match step {
            Step::Text(text) => {
                let at = usize::from(text.starts_with('\n'));
                text.insert_str(at, "  ");
            }
            Step::Value { indent, .. } => *indent = indent.saturating_add(2),
        }
    }
}

/// A text, plain where that is safe. `block` allows several lines, and is the column of what holds it.
fn scalar(text: &str, block: Option<usize>) -> String {
    if let Some(indent) = block
        && let Some(literal) = literal(text, indent)
    {
        return literal;
    }
    if is_safe(text) && is_plain_text(text) {
        return text.into();
    }
    quoted(text)
}

/// Whether a character can't stand as itself.
fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_odd(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn is_safe(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let opens = matches!(first, '-' | '?' | ':') && text.chars().nth(1).is_none_or(char::is_whitespace);
    let indicator = opens || ",[]{}#&*!|>'\"%@`= ".contains(first) || text == "---" || text == "...";
    let inside = text.contains(": ") || text.contains(" #") || text.ends_with(':') || text.ends_with(' ');
    !indicator && !inside && !text.chars().any(is_odd) && !text.starts_with("--- ") && !text.starts_with("... ")
}

fn literal(text: &str, indent: usize) -> Option<String> {
    let body = text.trim_end_matches('\n');
    let odd = |c: char| c != '\n' && c != '\t' && is_odd(c);
    if !text.contains('\n') || body.is_empty() || text.starts_with([' ', '\n', '\t']) || text.chars().any(odd) {
        return None;
    }
    let chomp = match text.len().saturating_sub(body.len()) {
        0 => "-",
        1 => "",
        _ => "+",
    };
    let column = " ".repeat(indent.saturating_add(2));
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let lines: Vec<String> =
        lines.map(|line| if line.is_empty() { String::new() } else { format!("{column}{line}") }).collect();
    Some(format!("|{chomp}\n{}", lines.join("\n")))
}
