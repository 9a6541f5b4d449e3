//! Filling templates in. Blocks and pipelines are no deeper than what was read.

use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::Value;

use super::super::go_text;
use super::{MAX_OUTPUT, Node, Operand, Pipeline};

type Run1<T> = Result<T, String>;

pub struct Run {
    pub out: String,
    pub variables: Vec<(String, Value)>,
    pub may_miss: bool,
}

impl Run {
    pub fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Run1<()> {
        for node in nodes {
            let kept = self.variables.len();
            match node {
                Node::Text(text) => self.write(text)?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.write(&shown(&value))?;
                    }
                    continue;
                }
                Node::If(pipeline, body, otherwise) => {
                    let holds = truth(&self.pipeline(pipeline, dot)?);
                    self.nodes(if holds { body } else { otherwise }, dot)?;
                }
                Node::With(pipeline, body, otherwise) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if truth(&value) { self.nodes(body, &value)? } else { self.nodes(otherwise, dot)? }
                }
                Node::Range(pipeline, body, otherwise) => self.range(pipeline, body, otherwise, dot)?,
            }
            self.variables.truncate(kept);
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Run1<()> {
        if self.out.len().saturating_add(text.len()) > MAX_OUTPUT {
            return Err(format!("the template makes more than {MAX_OUTPUT} bytes"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Run1<()> {
        let quiet = Pipeline { variables: Vec::new(), commands: pipeline.commands.clone() };
        let items: Vec<(Value, Value)> = match self.pipeline(&quiet, dot)? {
            Value::Array(items) => items.into_iter().enumerate().map(|(i, v)| (i.into(), v)).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {}", go_text(&other))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in items {
            let kept = self.variables.len();
            match pipeline.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), value.clone())),
                [index, one, ..] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((one.clone(), value.clone()));
                }
            }
            self.nodes(body, &value)?;
            self.variables.truncate(kept);
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Run1<Value> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let value = last.unwrap_or(Value::Null);
        if let Some(name) = pipeline.variables.first() {
            self.variables.push((name.clone(), value.clone()));
        }
        Ok(value)
    }

    fn command(&mut self, words: &[Operand], dot: &Value, piped: Option<Value>) -> Run1<Value> {
        let Some((first, rest)) = words.split_first() else { return Ok(Value::Null) };
        let Operand::Function(name) = first else {
            if !rest.is_empty() || piped.is_some() {
                return Err("can't give argument to non-function".into());
            }
            return self.operand(first, dot);
        };
        let mut arguments = rest.iter().map(|word| self.operand(word, dot)).collect::<Run1<Vec<_>>>()?;
        arguments.extend(piped);
        call(name, &arguments)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Run1<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => self.fields(dot, path),
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = found.map(|(_, v)| v.clone()).ok_or_else(|| format!("undefined variable {name:?}"))?;
                self.fields(&value, path)
            }
            Operand::Nested(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                self.fields(&value, path)
            }
            Operand::Function(name) => call(name, &[]),
        }
    }

    fn fields(&self, value: &Value, path: &[String]) -> Run1<Value> {
        let mut at = value;
        for name in path {
            at = match at {
                Value::Object(map) => match map.get(name) {
                    Some(value) => value,
                    None if self.may_miss => &Value::Null,
                    None => {
                        return Err(format!(
                            "executing \"output\" at <.{}>: map has no entry for key {name:?}",
                            path.join(".")
                        ));
                    }
                },
                Value::Null if self.may_miss => &Value::Null,
                other => {
                    return Err(format!(
                        "executing \"output\" at <.{}>: can't evaluate field {name} in {}",
                        path.join("."),
                        go_text(other)
                    ));
                }
            };
        }
        Ok(at.clone())
    }
}

fn shown(value: &Value) -> String {
    if value.is_null() { "<no value>".into() } else { go_text(value) }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

fn order(a: &Value, b: &Value) -> Run1<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(_), Value::Number(_)) => {
            a.as_f64().partial_cmp(&b.as_f64()).ok_or_else(|| "invalid comparison".into())
        }
        _ => Err("incompatible types for comparison".into()),
    }
}

fn call(name: &str, arguments: &[Value]) -> Run1<Value> {
    let first = arguments.first().cloned().unwrap_or(Value::Null);
    let second = arguments.get(1).cloned().unwrap_or(Value::Null);
    let needs = |count: usize| {
        if arguments.len() < count {
            Err(format!("wrong number of args for {name}: want at least {count} got {}", arguments.len()))
        } else {
            Ok(())
        }
    };
    Ok(match name {
        "and" => arguments.iter().find(|v| !truth(v)).or(arguments.last()).cloned().unwrap_or(Value::Null),
        "or" => arguments.iter().find(|v| truth(v)).or(arguments.last()).cloned().unwrap_or(Value::Null),
        "not" => (!truth(&first)).into(),
        "eq" => {
            needs(2)?;
            arguments[1..].iter().any(|v| equal(&first, v)).into()
        }
        "ne" => (!equal(&first, &second)).into(),
        "lt" => (order(&first, &second)? == Ordering::Less).into(),
        "le" => (order(&first, &second)? != Ordering::Greater).into(),
        "gt" => (order(&first, &second)? == Ordering::Greater).into(),
        "ge" => (order(&first, &second)? != Ordering::Less).into(),
        "len" => match &first {
            Value::String(text) => text.len().into(),
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            _ => return Err("error calling len: len of type that has none".into()),
        },
        "index" => arguments.get(1..).unwrap_or_default().iter().try_fold(first, |at, key| index(&at, key))?,
        "exists" => {
            let found = arguments.get(1..).unwrap_or_default().iter().try_fold(first, |at, key| index(&at, key));
            found.is_ok_and(|v| !v.is_null()).into()
        }
        "slice" => slice(&first, arguments)?,
        "print" => arguments.iter().map(shown).collect::<Vec<_>>().join(" ").into(),
        "println" => (arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(&go_text(&first), arguments.get(1..).unwrap_or_default()).into(),
        "base64decode" => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(go_text(&first));
            let bytes = bytes.map_err(|error| format!("error calling base64decode: base64 decode failed: {error}"))?;
            String::from_utf8_lossy(&bytes).into_owned().into()
        }
        "html" => shown(&first)
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;")
            .into(),
        "js" => Value::from(shown(&first)).to_string().trim_matches('"').into(),
        _ => crate::client::encode(&shown(&first)).into(),
    })
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn index(value: &Value, key: &Value) -> Run1<Value> {
    match (value, key) {
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or(Value::Null)),
        (Value::Array(items), Value::Number(n)) => {
            let at = n.as_u64().and_then(|n| usize::try_from(n).ok());
            at.and_then(|at| items.get(at))
                .cloned()
                .ok_or_else(|| format!("error calling index: index out of range: {n}"))
        }
        _ => Err(format!("error calling index: can't index item of {}", go_text(value))),
    }
}

fn slice(value: &Value, arguments: &[Value]) -> Run1<Value> {
    let at = |i: usize| arguments.get(i).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let wrong = || "error calling slice: index out of range".to_string();
    match value {
        Value::String(text) => {
            let (begin, end) = (at(1).unwrap_or(0), at(2).unwrap_or(text.len()));
            text.get(begin..end).map(Value::from).ok_or_else(wrong)
        }
        Value::Array(items) => {
            let (begin, end) = (at(1).unwrap_or(0), at(2).unwrap_or(items.len()));
            items.get(begin..end).map(|part| Value::Array(part.to_vec())).ok_or_else(wrong)
        }
        _ => Err("error calling slice: can't slice item".into()),
    }
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%%`, with a width.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let left = chars.next_if_eq(&'-').is_some();
        let mut width = 0_usize;
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            width = width.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize).min(1000);
        }
        let text = match chars.next() {
            Some('%') => "%".to_string(),
            Some(verb) => match (arguments.next(), verb) {
                (None, verb) => format!("%!{verb}(MISSING)"),
                (Some(value), 'q') => format!("{:?}", go_text(value)),
                (Some(value), _) => go_text(value),
            },
            None => "%!(NOVERB)".into(),
        };
        out.push_str(&if left { format!("{text:<width$}") } else { format!("{text:>width$}") });
    }
    out
}
