//! From text to a path.

use serde_json::Value;

use super::{Operator, Path, Slice, Step};

pub(super) struct Parser<'s> {
    pub rest: &'s str,
    pub depth: usize,
    pub steps: Vec<Step>,
}

fn ends_name(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

impl<'s> Parser<'s> {
    pub(super) fn step(&mut self) -> Result<(), String> {
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
