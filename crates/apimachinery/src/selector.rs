//! Label and field selectors.
//!
//! The text grammar is that of `kubectl -l` (API concepts, "Labels and selectors"); the structured form is
//! `metav1.LabelSelector`.

use std::fmt;

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
    values: Vec<String>,
    /// Written with `=` or `!=`.
    single: bool,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.op, value) {
            (Op::In, Some(v)) => self.values.iter().any(|x| x == v),
            (Op::NotIn, Some(v)) => !self.values.iter().any(|x| x == v),
            (Op::NotIn | Op::DoesNotExist, None) | (Op::Exists, Some(_)) => true,
            (Op::GreaterThan(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v > *n),
            (Op::LessThan(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v < *n),
            _ => false,
        }
    }
}

/// A conjunction of requirements on labels. Empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// Why a selector can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct SelectorError(String);

impl LabelSelector {
    /// Whether it has no requirement, and so selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Reads `a=b,c!=d,e in (f,g),!h,i`.
    ///
    /// # Errors
    /// When a requirement is malformed, or its key or a value isn't one of a label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = split_top_level(text).into_iter().filter(|p| !p.trim().is_empty()).map(parse_requirement);
        Ok(LabelSelector { requirements: requirements.collect::<Result<_, _>>()? })
    }

    /// Reads a `metav1.LabelSelector` (or a node selector term's expressions). Null selects nothing in most of the
    /// API, which callers decide; here it is the empty selector.
    ///
    /// # Errors
    /// When an expression has an unknown operator, or values that don't go with it.
    pub fn from_json(value: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, v) in value.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(equals(key, v.as_str().unwrap_or("")));
        }
        for e in value.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(requirement_from_json(e)?);
        }
        Ok(LabelSelector { requirements })
    }

    /// A selector that wants exactly these labels (a Service's `spec.selector`).
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        LabelSelector { requirements: pairs.into_iter().map(|(k, v)| equals(k.as_ref(), v.as_ref())).collect() }
    }

    /// Whether labels, asked for by key, satisfy all requirements.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether an optional map of labels satisfies all requirements.
    pub fn matches_map(&self, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
        self.matches(|k| labels.and_then(|l| l.get(k)).map(String::as_str))
    }
}

/// The text grammar, sorted by key and with sorted values, as upstream writes selectors.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Requirement> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (i, requirement) in sorted.into_iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let mut values = self.values.clone();
        values.sort();
        match &self.op {
            Op::In if self.single => write!(f, "{key}={}", values.join(",")),
            Op::In => write!(f, "{key} in ({})", values.join(",")),
            Op::NotIn if self.single => write!(f, "{key}!={}", values.join(",")),
            Op::NotIn => write!(f, "{key} notin ({})", values.join(",")),
            Op::Exists => f.write_str(key),
            Op::DoesNotExist => write!(f, "!{key}"),
            Op::GreaterThan(n) => write!(f, "{key}>{n}"),
            Op::LessThan(n) => write!(f, "{key}<{n}"),
        }
    }
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), op: Op::In, values: vec![value.into()], single: true }
}

fn requirement_from_json(e: &Value) -> Result<Requirement, SelectorError> {
    let text = |k: &str| e.get(k).and_then(Value::as_str).unwrap_or("").to_string();
    let values: Vec<String> = e
        .get("values")
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).map(String::from).collect())
        .unwrap_or_default();
    let number = || {
        let first = values.first().map(String::as_str).unwrap_or("");
        first.parse::<i64>().map_err(|_| SelectorError(format!("{first:?} is not a number")))
    };
    let op = match text("operator").as_str() {
        "In" => Op::In,
        "NotIn" => Op::NotIn,
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::DoesNotExist,
        "Gt" => Op::GreaterThan(number()?),
        "Lt" => Op::LessThan(number()?),
        other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
    };
    Ok(Requirement { key: text("key"), op, values, single: false })
}

/// Splits at commas that stand outside parentheses.
fn split_top_level(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i.saturating_add(1);
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(text: &str) -> Result<Requirement, SelectorError> {
    let text = text.trim();
    let key_ok = |k: &str| match crate::names::qualified_name(k) {
        Ok(()) => Ok(k.to_string()),
        Err(e) => Err(SelectorError(format!("key: Invalid value: {k:?}: {e}"))),
    };
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: key_ok(key.trim())?, op: Op::DoesNotExist, values: vec![], single: false });
    }
    for (sep, op) in [("!=", Op::NotIn), ("==", Op::In), ("=", Op::In)] {
        if let Some((k, v)) = text.split_once(sep) {
            let v = v.trim();
            crate::names::label_value(v)
                .map_err(|e| SelectorError(format!("values[0][{k}]: Invalid value: {v:?}: {e}")))?;
            return Ok(Requirement { key: key_ok(k.trim())?, op, values: vec![v.into()], single: true });
        }
    }
    for (sep, greater) in [(">", true), ("<", false)] {
        if let Some((k, v)) = text.split_once(sep) {
            let n = v.trim().parse().map_err(|_| SelectorError(format!("{:?} is not a number", v.trim())))?;
            let op = if greater { Op::GreaterThan(n) } else { Op::LessThan(n) };
            return Ok(Requirement { key: key_ok(k.trim())?, op, values: vec![], single: false });
        }
    }
    if let Some((head, list)) = text.split_once('(') {
        let Some(list) = list.trim_end().strip_suffix(')') else {
            return Err(SelectorError(format!("found {text:?}, expected: ')'")));
        };
        let mut words = head.split_whitespace();
        let (Some(key), Some(op), None) = (words.next(), words.next(), words.next()) else {
            return Err(SelectorError(format!("found {head:?}, expected: a key and 'in' or 'notin'")));
        };
        let op = match op {
            "in" => Op::In,
            "notin" => Op::NotIn,
            other => return Err(SelectorError(format!("found '{other}', expected: 'in' or 'notin'"))),
        };
        let values = list.split(',').map(|v| v.trim().to_string()).collect();
        return Ok(Requirement { key: key_ok(key)?, op, values, single: false });
    }
    Ok(Requirement { key: key_ok(text)?, op: Op::Exists, values: vec![], single: false })
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// (path, wanted value, whether it must be equal)
    pub terms: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// Whether it has no term, and so selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Reads a field selector: `metadata.name=a,status.phase!=Running`.
    ///
    /// # Errors
    /// When a term has no operator.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((p, v)) = part.split_once("!=") {
                (p, v, false)
            } else if let Some((p, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (p, v, true)
            } else {
                return Err(SelectorError(format!("invalid selector: {part:?}; can't understand {part:?}")));
            };
            terms.push((path.to_string(), value.to_string(), equal));
        }
        Ok(FieldSelector { terms })
    }

    /// Whether fields, asked for by path, satisfy all terms. A missing field is the empty string.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|(path, want, equal)| (field(path) == want) == *equal)
    }

    /// The value that `path` must equal, if the selector pins it.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|(p, _, equal)| *equal && p == path).map(|(_, v, _)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: &[(&str, &str)], want: bool) {
        let s = LabelSelector::parse(selector).unwrap();
        let got = s.matches(|k| labels.iter().find(|(l, _)| *l == k).map(|(_, v)| *v));
        assert_eq!(got, want, "{selector} on {labels:?}");
    }

    #[test]
    fn selector_text_follows_kubectl() {
        let web = [("app", "web"), ("tier", "3")];
        check("", &web, true);
        check("app=web", &web, true);
        check("app==web,tier!=4", &web, true);
        check("app in (a, web),!gone", &web, true);
        check("app notin (web)", &web, false);
        check("missing notin (web)", &web, true);
        check("missing!=x", &web, true);
        check("tier>2,tier<4", &web, true);
        check("app", &web, true);
        check("missing", &web, false);
    }

    #[test]
    fn broken_selectors_are_refused() {
        for bad in ["a in (b", "a within (b)", "=b", "a=b c", "a>x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn structured_selectors_match_like_text() {
        let s = LabelSelector::from_json(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]
        }))
        .unwrap();
        assert!(s.matches(|k| Some(if k == "app" { "web" } else { "b" })));
        assert!(!s.matches(|k| Some(if k == "app" { "web" } else { "c" })));
    }
}
