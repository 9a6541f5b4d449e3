//! kubectl's JSONPath (client-go's `util/jsonpath`), which is none of RFC 9535: names may have escaped dots, slashes and
//! hyphens (`.metadata.labels.app\.kubernetes\.io/name`, `['a\.b']`), indices out of range are errors, and a result that
//! isn't there may be one or may not.
//!
//! A [`Path`] is what stands between braces in a template.

mod parser;

use std::cmp::Ordering;

use serde_json::Value;

use parser::Parser;

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
mod tests;
