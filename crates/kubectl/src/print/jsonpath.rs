//! Templates of `-o jsonpath`: text with paths in braces, and `{range …}…{end}`.

use apimachinery::jsonpath::{Path, text};
use serde_json::Value;

use crate::error::{Error, Result, fail};

/// Ranges in ranges beyond this depth are refused.
const MAX_DEPTH: usize = 16;

enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

pub struct Template {
    nodes: Vec<Node>,
    may_miss: bool,
    as_json: bool,
    source: String,
}

impl Template {
    /// # Errors
    /// When it is no template.
    pub fn parse(source: &str, may_miss: bool, as_json: bool) -> Result<Self> {
        let wrong = |error: String| Error::Message(format!("error parsing jsonpath {source}, {error}"));
        // Open ranges: each its path and what is in it.
        let mut open: Vec<(Option<Path>, Vec<Node>)> = vec![(None, Vec::new())];
        let mut rest = source;
        while !rest.is_empty() {
            let Some(begin) = rest.find('{') else {
                push(&mut open, Node::Text(rest.into()));
                break;
            };
            if begin > 0 {
                push(&mut open, Node::Text(rest[..begin].into()));
            }
            let end = closing(&rest[begin..]).ok_or_else(|| wrong("unclosed action".into()))?;
            let inner = rest[begin..][1..end].trim();
            rest = &rest[begin.saturating_add(end).saturating_add(1)..];
            if inner == "end" {
                let (path, nodes) = open.pop().ok_or_else(|| wrong("not in range, nothing to end".into()))?;
                let path = path.ok_or_else(|| wrong("not in range, nothing to end".into()))?;
                push(&mut open, Node::Range(path, nodes));
            } else if let Some(path) = inner.strip_prefix("range ") {
                open.push((Some(Path::parse(path.trim()).map_err(wrong)?), Vec::new()));
                if open.len() > MAX_DEPTH {
                    return fail("the template's ranges are nested too deeply");
                }
            } else {
                for node in parts(inner).map_err(wrong)? {
                    push(&mut open, node);
                }
            }
        }
        match (open.pop(), open.is_empty()) {
            (Some((None, nodes)), true) => Ok(Template { nodes, may_miss, as_json, source: source.into() }),
            _ => Err(wrong("unclosed range".into())),
        }
    }

    /// # Errors
    /// When a path leads nowhere.
    pub fn fill(&self, object: &Value) -> Result<String> {
        let mut out = String::new();
        let filled =
            if self.as_json { self.json(object, &mut out) } else { fill(&self.nodes, object, self.may_miss, &mut out) };
        filled.map_err(|error| {
            Error::Message(format!(
                "error executing jsonpath {:?}: Error executing template: {error}. Printing more information for debugging the template:\n\
                 \ttemplate was:\n\t\t{}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n",
                self.source,
                self.source,
                super::go_text(object)
            ))
        })?;
        Ok(out)
    }

    fn json(&self, object: &Value, out: &mut String) -> std::result::Result<(), String> {
        for node in &self.nodes {
            if let Node::Path(path) = node {
                let found: Vec<Value> = path.find(object, self.may_miss)?.into_iter().cloned().collect();
                out.push_str(&super::go_json_pretty(&Value::Array(found)));
                out.push('\n');
            }
        }
        Ok(())
    }
}

fn push(open: &mut [(Option<Path>, Vec<Node>)], node: Node) {
    if let Some((_, nodes)) = open.last_mut() {
        nodes.push(node);
    }
}

/// What stands between braces: paths, or texts in quotes.
fn parts(inner: &str) -> std::result::Result<Vec<Node>, String> {
    let quote = inner.chars().next().filter(|c| *c == '"' || *c == '\'');
    if let Some(quote) = quote
        && let Some(body) = inner.strip_prefix(quote).and_then(|s| s.strip_suffix(quote))
        && !body.contains(quote)
    {
        return Ok(vec![Node::Text(unescape(body))]);
    }
    Ok(vec![Node::Path(Path::parse(inner)?)])
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Where the brace that opens a text is closed: not in quotes, and not a brace within.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth = depth.saturating_add(1),
            (None, '}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Not deeper than `MAX_DEPTH`.
fn fill(nodes: &[Node], object: &Value, may_miss: bool, out: &mut String) -> std::result::Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found: Vec<String> = path.find(object, may_miss)?.into_iter().map(text_of).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(path, inner) => {
                for item in path.find(object, may_miss)? {
                    fill(inner, item, may_miss, out)?;
                }
            }
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => super::go_json(value),
        Value::Null => String::new(),
        other => text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled_in() {
        let object = json!({"items": [{"n": "a", "v": [1, 2], "w": {"x": "<"}}, {"n": "b", "v": []}]});
        for (template, want) in [
            ("{.items[*].n}", "a b"),
            ("{range .items[*]}{.n}{\"\\t\"}{.v}{'\\n'}{end}", "a\t[1,2]\nb\t[]\n"),
            ("x{.items[0].w}y", "x{\"x\":\"\\u003c\"}y"),
            ("{.items[?(@.n==\"b\")].n}", "b"),
            ("{.missing}", ""),
            ("{range .items[*]}{range .v[*]}{@}-{end}{end}", "1-2-"),
        ] {
            assert_eq!(Template::parse(template, true, false).unwrap().fill(&object).unwrap(), want, "{template}");
        }
        for bad in ["{.a", "{end}", "{range .a}", "{[}"] {
            assert!(Template::parse(bad, true, false).is_err(), "{bad}");
        }
        assert!(Template::parse("{.missing}", false, false).unwrap().fill(&object).is_err());
    }
}
