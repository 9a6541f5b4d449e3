//! Reading templates.

use serde_json::Value;

use super::{FUNCTIONS, MAX_DEPTH, Node, Operand, Pipeline};

type Read<T> = Result<T, String>;

/// A block that isn't closed yet.
struct Open {
    word: &'static str,
    pipeline: Pipeline,
    body: Vec<Node>,
    otherwise: Option<Vec<Node>>,
    /// `else if` is a block in the else of its own, closed by the same end.
    chained: bool,
}

pub fn template(source: &str) -> Read<Vec<Node>> {
    let mut stack =
        vec![Open { word: "", pipeline: Pipeline::default(), body: Vec::new(), otherwise: None, chained: false }];
    let mut rest = source;
    let mut trims = false;
    while !rest.is_empty() {
        let begin = rest.find("{{");
        let text = &rest[..begin.unwrap_or(rest.len())];
        let text = if trims { text.trim_start() } else { text };
        let trim_before = begin.is_some_and(|at| rest[at..].starts_with("{{- "));
        let text = if trim_before { text.trim_end() } else { text };
        if !text.is_empty() {
            push(&mut stack, Node::Text(text.into()));
        }
        let Some(begin) = begin else { break };
        let end = end_of_action(&rest[begin..]).ok_or("unclosed action")?;
        let mut inner = &rest[begin..][2..end];
        rest = &rest[begin.saturating_add(end).saturating_add(2)..];
        trims = inner.ends_with(" -");
        inner = inner.strip_suffix(" -").unwrap_or(inner);
        inner = inner.strip_prefix("- ").unwrap_or(inner).trim();
        if inner.starts_with("/*") {
            continue;
        }
        action(&mut stack, inner)?;
        if stack.len() > MAX_DEPTH {
            return Err("blocks are nested too deeply".into());
        }
    }
    match stack.pop() {
        Some(root) if stack.is_empty() => Ok(root.body),
        _ => Err("unexpected EOF".into()),
    }
}

/// Where `}}` ends an action that begins with `{{`, not in a text.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`' | '\'') if !text[2..].trim_start().starts_with("/*") => quote = Some(c),
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

fn push(stack: &mut [Open], node: Node) {
    if let Some(top) = stack.last_mut() {
        top.otherwise.as_mut().unwrap_or(&mut top.body).push(node);
    }
}

fn open(stack: &mut Vec<Open>, word: &'static str, rest: &str, chained: bool) -> Read<()> {
    stack.push(Open { word, pipeline: pipeline(rest)?, body: Vec::new(), otherwise: None, chained });
    Ok(())
}

fn action(stack: &mut Vec<Open>, inner: &str) -> Read<()> {
    let (word, rest) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
    match word {
        "if" => open(stack, "if", rest, false),
        "with" => open(stack, "with", rest, false),
        "range" => open(stack, "range", rest, false),
        "else" => {
            let top = stack
                .last_mut()
                .filter(|t| !t.word.is_empty() && t.otherwise.is_none())
                .ok_or("unexpected {{else}}")?;
            top.otherwise = Some(Vec::new());
            match rest.trim().split_once(' ') {
                None => Ok(()),
                Some(("if", condition)) => open(stack, "if", condition, true),
                Some(("with", value)) => open(stack, "with", value, true),
                Some(_) => Err("unexpected text after {{else".into()),
            }
        }
        "end" => loop {
            let top = stack.pop().filter(|t| !t.word.is_empty()).ok_or("unexpected {{end}}")?;
            let otherwise = top.otherwise.unwrap_or_default();
            push(
                stack,
                match top.word {
                    "if" => Node::If(top.pipeline, top.body, otherwise),
                    "with" => Node::With(top.pipeline, top.body, otherwise),
                    _ => Node::Range(top.pipeline, top.body, otherwise),
                },
            );
            if !top.chained {
                return Ok(());
            }
        },
        "define" | "template" | "block" | "break" | "continue" => {
            Err(format!("{{{{{word}}}}} isn't served by this kubectl"))
        }
        _ => {
            push(stack, Node::Action(pipeline(inner)?));
            Ok(())
        }
    }
}

fn pipeline(text: &str) -> Read<Pipeline> {
    let mut words = Words { rest: text.trim_start(), depth: 0 };
    words.pipeline()
}

struct Words<'a> {
    rest: &'a str,
    depth: usize,
}

impl Words<'_> {
    fn pipeline(&mut self) -> Read<Pipeline> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > MAX_DEPTH {
            return Err("parentheses are nested too deeply".into());
        }
        let mut made = Pipeline::default();
        if let Some((left, right)) = self.rest.split_once(":=")
            && left.trim_start().starts_with('$')
            && !left.contains(['"', '(', '|'])
        {
            made.variables = left.split(',').map(|v| v.trim().to_string()).collect();
            self.rest = right.trim_start();
        }
        let mut command = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.chars().next() {
                None | Some(')') => break,
                Some('|') => {
                    self.rest = &self.rest[1..];
                    if command.is_empty() {
                        return Err("missing value for command".into());
                    }
                    made.commands.push(std::mem::take(&mut command));
                }
                Some(_) => command.push(self.operand()?),
            }
        }
        if command.is_empty() {
            return Err("missing value for command".into());
        }
        made.commands.push(command);
        self.depth = self.depth.saturating_sub(1);
        Ok(made)
    }

    fn operand(&mut self) -> Read<Operand> {
        match self.rest.chars().next() {
            Some('"' | '\'') => self.quoted().map(Operand::Literal),
            Some('`') => {
                let (text, rest) = self.rest[1..].split_once('`').ok_or("unterminated raw quoted string")?;
                self.rest = rest;
                Ok(Operand::Literal(text.into()))
            }
            Some('(') => {
                self.rest = &self.rest[1..];
                let inner = self.pipeline()?;
                self.rest = self.rest.strip_prefix(')').ok_or("unclosed left paren")?;
                Ok(Operand::Nested(inner, self.fields()))
            }
            Some('.') => Ok(Operand::Field(self.fields())),
            Some('$') => {
                let name = self.take(|c| c.is_alphanumeric() || c == '_' || c == '$');
                Ok(Operand::Variable(name, self.fields()))
            }
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => {
                let text = self.take(|c| c.is_alphanumeric() || "+-._".contains(c));
                let whole = text.parse::<i64>().map(Value::from).ok();
                let number = whole.or_else(|| text.parse::<f64>().ok().map(Value::from));
                number.map(Operand::Literal).ok_or_else(|| format!("bad number syntax: {text:?}"))
            }
            _ => {
                let word = self.take(|c| c.is_alphanumeric() || c == '_');
                match word.as_str() {
                    "true" => Ok(Operand::Literal(true.into())),
                    "false" => Ok(Operand::Literal(false.into())),
                    "nil" => Ok(Operand::Literal(Value::Null)),
                    word if FUNCTIONS.contains(&word) => Ok(Operand::Function(word.into())),
                    "" => {
                        Err(format!("unexpected {:?} in command", self.rest.chars().next().unwrap_or(' ').to_string()))
                    }
                    word => Err(format!("function {word:?} not defined")),
                }
            }
        }
    }

    fn take(&mut self, test: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c: char| !test(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.into()
    }

    fn quoted(&mut self) -> Read<Value> {
        let quote = self.rest.chars().next().unwrap_or('"');
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, other)) => out.push(other),
                    None => break,
                },
                c if c == quote => {
                    self.rest = &self.rest[at.saturating_add(1)..];
                    // A character is its number.
                    let number = || out.chars().next().map_or(0, u32::from);
                    return Ok(if quote == '\'' { number().into() } else { out.into() });
                }
                c => out.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while self.rest.starts_with('.') {
            self.rest = &self.rest[1..];
            let name = self.take(|c| c.is_alphanumeric() || c == '_');
            if name.is_empty() {
                break;
            }
            fields.push(name);
        }
        fields
    }
}
