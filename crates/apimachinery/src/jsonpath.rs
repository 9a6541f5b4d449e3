//! kubectl's JSONPath (client-go's `util/jsonpath`), which is none of RFC 9535: names may have escaped dots, slashes and
//! hyphens (`.metadata.labels.app\.kubernetes\.io/name`, `['a\.b']`), indices out of range are errors, and a result that
//! isn't there may be one or may not.
//!
//! A [`Path`] is what stands between braces in a template.

use std::cmp::Ordering;

use serde_json::Value;

/// Longer paths are refused, in bytes.
const MAX_TEMPLATE_BYTES: usize = 16 << 10;
/// Filters in filters beyond this depth are refused.
const MAX_NESTING: usize = 8;
/// More results than these are refused: unions and `..` multiply them.
const MAX_RESULTS: usize = 100_000;
/// How deep `..` goes at most.
const MAX_VALUE_DEPTH: usize = 256;

/// A way from a value to others.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// `*`: all members or items.
    All,
    /// `..`: the value and all in it that has elements.
    Descendants,
    Slice(Slice),
    Union(Vec<Path>),
    Filter(Path, Operator, Path),
    Literal(Value),
}

/// `[start:end:step]`, or one index.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
    is_index: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Exists,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// How a value is printed: texts as they are, lists and objects as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Path {
    /// Reads a path, with or without braces around it.
    ///
    /// # Errors
    /// In words, when it isn't one.
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(format!("the path has {} bytes; the most is {MAX_TEMPLATE_BYTES}", source.len()));
        }
        let inner = source.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(source);
        Self::parse_inner(inner, 0)
    }

    fn parse_inner(source: &str, depth: usize) -> Result<Self, String> {
        if depth > MAX_NESTING {
            return Err("filters are nested too deeply".into());
        }
        let mut parser = Parser { rest: source, depth, steps: Vec::new() };
        while !parser.rest.is_empty() {
            parser.step()?;
        }
        Ok(Path(parser.steps))
    }

    /// The values that a path leads to. A field that isn't there leads to nothing if `may_miss` is set.
    ///
    /// # Errors
    /// In words, where a step can't be taken.
    pub fn find<'a>(&'a self, data: &'a Value, may_miss: bool) -> Result<Vec<&'a Value>, String> {
        let mut found = vec![data];
        for step in &self.0 {
            found = step.take(found, may_miss)?;
            if found.len() > MAX_RESULTS {
                return Err(format!("the path has more than {MAX_RESULTS} results"));
            }
        }
        Ok(found)
    }
}

struct Parser<'s> {
    rest: &'s str,
    depth: usize,
    steps: Vec<Step>,
}

fn ends_name(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

impl<'s> Parser<'s> {
    fn step(&mut self) -> Result<(), String> {
        if let Some(rest) = self.rest.strip_prefix("[?(") {
            self.rest = rest;
            return self.filter();
        }
        if let Some(rest) = self.rest.strip_prefix("..") {
            if self.steps.last() == Some(&Step::Descendants) {
                return Err("invalid multiple recursive descent".into());
            }
            self.rest = rest;
            self.steps.push(Step::Descendants);
            if rest.starts_with(|c: char| c == '_' || c == '*' || c.is_alphanumeric()) {
                self.field();
            }
            return Ok(());
        }
        let Some(first) = self.rest.chars().next() else { return Ok(()) };
        match first {
            ' ' | '@' | '$' => self.rest = &self.rest[1..],
            '[' => self.brackets()?,
            '"' | '\'' => {
                let text = self.quoted(first)?;
                self.steps.push(Step::Literal(text.into()));
            }
            '.' => {
                self.rest = &self.rest[1..];
                self.field();
            }
            c if c == '+' || c == '-' || c.is_ascii_digit() => self.number()?,
            c if c == '_' || c.is_alphanumeric() => {
                let name = self.name();
                let truth = name.parse::<bool>().map_err(|_| format!("unrecognized identifier {name}"))?;
                self.steps.push(Step::Literal(truth.into()));
            }
            c => return Err(format!("unrecognized character in action: {c:?}")),
        }
        Ok(())
    }

    /// What comes up to the next character that ends a name; a backslash takes that character into the name.
    fn name(&mut self) -> &'s str {
        let mut end = self.rest.len();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                chars.next();
            } else if ends_name(c) {
                end = at;
                break;
            }
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    fn field(&mut self) {
        let name = self.name().replace('\\', "");
        self.steps.push(if name == "*" { Step::All } else { Step::Field(name) });
    }

    fn number(&mut self) -> Result<(), String> {
        let is_part = |(at, c): &(usize, char)| c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '+' | '-'));
        let end = self.rest.char_indices().find(|part| !is_part(part)).map_or(self.rest.len(), |(at, _)| at);
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let number = match text.parse::<i64>() {
            Ok(whole) => Value::from(whole),
            Err(_) => text.parse::<f64>().map(Value::from).map_err(|_| format!("cannot parse number {text}"))?,
        };
        self.steps.push(Step::Literal(number));
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c) if c == quote || c == '\\' => text.push(c),
                    other => return Err(format!("unquote string error: {other:?} can't be escaped")),
                },
                '\n' => break,
                c if c == quote => {
                    self.rest = &self.rest[at.saturating_add(c.len_utf8())..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn brackets(&mut self) -> Result<(), String> {
        let end = self.rest.find([']', '\n']).filter(|end| self.rest[*end..].starts_with(']'));
        let end = end.ok_or("unterminated array")?;
        let text = &self.rest[1..end];
        self.rest = &self.rest[end.saturating_add(1)..];
        if text.contains(',') {
            let parts = text
                .split(',')
                .map(|part| Path::parse_inner(&format!("[{}]", part.trim_matches(' ')), self.depth.saturating_add(1)));
            self.steps.push(Step::Union(parts.collect::<Result<_, _>>()?));
            return Ok(());
        }
        let key = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|key| !key.contains('\''));
        if let Some(key) = key {
            // Upstream reads it as a path, in which dots are to be escaped here, too.
            self.steps.extend(Path::parse_inner(&format!(".{key}"), self.depth.saturating_add(1))?.0);
            return Ok(());
        }
        self.steps.push(Step::Slice(Slice::parse(if text == "*" { ":" } else { text })?));
        Ok(())
    }

    fn filter(&mut self) -> Result<(), String> {
        let mut quote = None;
        let mut before = ' ';
        let mut end = None;
        for (at, c) in self.rest.char_indices() {
            match (c, quote) {
                ('\n', _) => break,
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open && before != '\\' => quote = None,
                (')', None) => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
            before = c;
        }
        let end = end.ok_or("unterminated filter")?;
        let text = &self.rest[..end];
        self.rest = self.rest[end.saturating_add(1)..].strip_prefix(']').ok_or("unclosed array expect ]")?;
        let read = |text: &str| Path::parse_inner(text, self.depth.saturating_add(1));
        let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        let step = match text.find(is_operator).filter(|at| *at > 0) {
            None => Step::Filter(read(text)?, Operator::Exists, Path(Vec::new())),
            Some(at) => {
                let (left, rest) = text.split_at(at);
                let (operator, right) = rest.split_at(rest.find(|c| !is_operator(c)).unwrap_or(rest.len()));
                Step::Filter(read(left)?, Operator::parse(operator)?, read(right)?)
            }
        };
        self.steps.push(step);
        Ok(())
    }
}

impl Slice {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("invalid array index {text}");
        let parts: Vec<&str> = text.split(':').collect();
        let number = |at: usize| match parts.get(at) {
            None | Some(&"") => Ok(None),
            Some(part) if part.starts_with('+') => Err(wrong()),
            Some(part) => part.parse::<i64>().map(Some).map_err(|_| wrong()),
        };
        if parts.len() > 3 || text.is_empty() {
            return Err(wrong());
        }
        Ok(Slice { start: number(0)?, end: number(1)?, step: number(2)?, is_index: parts.len() == 1 })
    }

    /// The items from start to end, as far as both are in the list.
    fn of<'a>(&self, list: &'a [Value]) -> Result<Vec<&'a Value>, String> {
        let length = list.len() as i64;
        let from_end = |n: i64| if n < 0 { n.saturating_add(length) } else { n };
        let start = from_end(self.start.unwrap_or(0));
        let end = match self.end {
            _ if self.is_index => start.saturating_add(1),
            Some(end) => from_end(end),
            None => length,
        };
        if start == end {
            return Ok(Vec::new());
        }
        for (index, is_in) in
            [(start, (0..length).contains(&start)), (end.saturating_sub(1), (0..=length).contains(&end))]
        {
            if !is_in {
                return Err(format!("array index out of bounds: index {index}, length {length}"));
            }
        }
        if start > end {
            return Err(format!("starting index {start} is greater than ending index {end}"));
        }
        let step = usize::try_from(self.step.unwrap_or(1)).ok().filter(|step| *step > 0).ok_or("step must be > 0")?;
        let bounds = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        Ok(list.get(bounds).unwrap_or_default().iter().step_by(step).collect())
    }
}

impl Operator {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            other => return Err(format!("unrecognized filter operator {other}")),
        })
    }

    fn holds(self, left: &Value, right: &Value) -> Result<bool, String> {
        let incompatible = || "incompatible types for comparison".to_string();
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => match self {
                Operator::Equal | Operator::NotEqual => a.cmp(b),
                _ => return Err(incompatible()),
            },
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                (None, None) => a.as_f64().partial_cmp(&b.as_f64()).ok_or_else(incompatible)?,
                _ => return Err(incompatible()),
            },
            _ => return Err(incompatible()),
        };
        Ok(match self {
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Greater => order == Ordering::Greater,
            Operator::GreaterOrEqual => order != Ordering::Less,
            Operator::Equal => order == Ordering::Equal,
            Operator::NotEqual => order != Ordering::Equal,
            Operator::Exists => true,
        })
    }
}

fn elements(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

impl Step {
    fn take<'a>(&'a self, from: Vec<&'a Value>, may_miss: bool) -> Result<Vec<&'a Value>, String> {
        let mut found = Vec::new();
        match self {
            Step::Literal(value) => found.extend(from.iter().map(|_| value)),
            Step::Field(name) => {
                found.extend(from.iter().filter_map(|value| value.get(name)));
                if found.is_empty() && !from.is_empty() && !may_miss {
                    return Err(format!("{name} is not found"));
                }
            }
            Step::All => found.extend(from.into_iter().flat_map(elements)),
            Step::Descendants => {
                for value in from {
                    descend(value, &mut found)?;
                }
            }
            Step::Slice(slice) => {
                for value in from.into_iter().filter(|value| !value.is_null()) {
                    let list = value.as_array().ok_or_else(|| format!("{value} is not array or slice"))?;
                    found.extend(slice.of(list)?);
                }
            }
            Step::Union(paths) => {
                for path in paths {
                    for value in &from {
                        found.extend(path.find(value, may_miss)?);
                    }
                    if found.len() > MAX_RESULTS {
                        break;
                    }
                }
            }
            Step::Filter(left, operator, right) => {
                for value in from {
                    let list = value
                        .as_array()
                        .ok_or_else(|| format!("{value} is not array or slice and cannot be filtered"))?;
                    for item in list {
                        if passes(item, left, *operator, right, may_miss)? {
                            found.push(item);
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

fn passes(item: &Value, left: &Path, operator: Operator, right: &Path, may_miss: bool) -> Result<bool, String> {
    let found = left.find(item, may_miss);
    if operator == Operator::Exists {
        return Ok(found.is_ok_and(|found| !found.is_empty()));
    }
    let (found, wanted) = (found?, right.find(item, may_miss)?);
    match (found.as_slice(), wanted.as_slice()) {
        ([], _) | (_, []) => Ok(false),
        ([one], [other]) => operator.holds(one, other),
        _ => Err("can only compare one element at a time".into()),
    }
}

/// A value and what is in it, each before what is in itself; values without elements are left out.
fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) -> Result<(), String> {
    let mut open = vec![(value, 0usize)];
    while let Some((value, depth)) = open.pop() {
        let inside = elements(value);
        if inside.is_empty() && value.as_str().is_none_or(str::is_empty) {
            continue;
        }
        if depth > MAX_VALUE_DEPTH || found.len() > MAX_RESULTS {
            return Err(format!("the path has more than {MAX_RESULTS} results"));
        }
        found.push(value);
        open.extend(inside.into_iter().rev().map(|value| (value, depth.saturating_add(1))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(path: &str) -> Result<Value, String> {
        let data = json!({
            "kind": "List", "n": null, "items": [
                {"name": "a", "size": 1, "ready": true, "labels": {"app.io/name": "x", "my-key": "y"}},
                {"name": "b", "size": 2, "ready": false, "labels": {}},
                {"name": "c", "size": 3}]});
        let path = Path::parse(path)?;
        path.find(&data, true).map(|found| json!(found))
    }

    #[test]
    fn paths_lead_where_kubectl_goes() {
        for (path, want) in [
            (".kind", json!(["List"])),
            ("{.kind}", json!(["List"])),
            ("$.kind", json!(["List"])),
            (".missing.deeper", json!([])),
            (".n", json!([null])),
            (".n.x", json!([])),
            (r".items[0].labels.app\.io/name", json!(["x"])),
            (r".items[0].labels['app\.io/name']", json!(["x"])),
            (".items[0].labels.my-key", json!(["y"])),
            (".items[-1].name", json!(["c"])),
            (".items[*].name", json!(["a", "b", "c"])),
            (".items[0:2].name", json!(["a", "b"])),
            (".items[::2].name", json!(["a", "c"])),
            (".items[-2:].name", json!(["b", "c"])),
            (".items[0,2].name", json!(["a", "c"])),
            (".items[0]['name','size']", json!(["a", 1])),
            (".items[1:1].name", json!([])),
            (r#".items[?(@.name=="b")].size"#, json!([2])),
            (".items[?(@.name!='b')].size", json!([1, 3])),
            (".items[?(@.size>1)].name", json!(["b", "c"])),
            (".items[?(@.ready==true)].name", json!(["a"])),
            (".items[?(@.labels)].name", json!(["a", "b"])),
            ("..name", json!(["a", "b", "c"])),
            (".items..my-key", json!(["y"])),
            (".items[0].labels.*", json!(["x", "y"])),
            ("'text'", json!(["text"])),
        ] {
            assert_eq!(found(path), Ok(want), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_and_what_cannot_be_is_an_error() {
        for path in
            [".items[", ".items[x]", ".items[?(@.a==1]", "....a", "{.a}}", ".items[1:2:3:4]", "'open", "#", "nonsense"]
        {
            assert!(Path::parse(path).is_err(), "{path}");
        }
        for path in [".items[3]", ".kind[0]", ".items[2:1]", ".items[::0]", ".items[?(@.name>1)]", ".kind[?(@.a)]"] {
            assert!(found(path).is_err(), "{path}");
        }
        let missing = Path::parse(".missing").unwrap();
        assert_eq!(missing.find(&json!({}), false), Err("missing is not found".into()));
        let deep = format!("{}.a{}", "[?(@.a".repeat(40), ")]".repeat(40));
        assert!(Path::parse(&deep).is_err());
    }

    #[test]
    fn extremes_of_indexes_are_borne() {
        let numbers = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
        for list in [json!([]), json!([1]), json!([1, 2, 3])] {
            for (start, end) in numbers.into_iter().flat_map(|start| numbers.map(|end| (start, end))) {
                for path in [format!("[{start}]"), format!("[{start}:{end}]"), format!("[:{end}:{start}]")] {
                    if let Ok(path) = Path::parse(&path) {
                        assert!(
                            path.find(&list, true).is_ok_and(|found| found.len() <= 3)
                                || path.find(&list, true).is_err()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn results_are_bounded() {
        let wide = json!(vec![vec![0; 300]; 300]);
        let path = Path::parse("[*][*]..").unwrap();
        assert!(path.find(&wide, true).is_ok());
        let union = Path::parse(&format!("[{}]", vec!["*"; 400].join(","))).unwrap();
        assert!(union.find(&json!(vec![0; 1000]), true).is_err());
    }

    #[test]
    fn values_are_printed_as_kubectl_does() {
        let printed = |value: Value| text(&value);
        assert_eq!(printed(json!("a")), "a");
        assert_eq!(printed(json!(1)), "1");
        assert_eq!(printed(json!(null)), "<no value>");
        assert_eq!(printed(json!({"a": ["b"]})), r#"{"a":["b"]}"#);
    }
}
