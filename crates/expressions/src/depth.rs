//! How deeply an expression nests. The parser, the checker, the evaluation and even the end of a tree's life call
//! themselves for each level, also for those of `1+1+1…` and `a.a.a…`, which no bracket shows. So the depth is bounded
//! before anything is parsed, and what parses has a stack that is large enough.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

/// The deepest tree that is evaluated: as many levels as the reference parser allows.
const MAX_DEPTH: usize = 250;
/// Deeper texts aren't parsed. A text may seem deeper than its tree is.
const DEEPEST_TEXT: usize = 1000;
/// Texts up to this depth are parsed on the caller's stack.
const SHALLOW_DEPTH: usize = 24;
/// What parsing the deepest text takes at most, several times over.
const STACK_BYTES: usize = 64 << 20;

/// What is known of the inside of a bracket, or of the whole text.
#[derive(Default)]
struct Level {
    /// How deep what stands between two loose operators is so far, and the deepest of these.
    here: usize,
    deepest: usize,
    /// `&&` and `||`, which become balanced trees.
    connectives: usize,
    /// Conditions nest to their right.
    conditions: usize,
}

impl Level {
    fn end_part(&mut self) {
        self.deepest = self.deepest.max(self.here);
        self.here = 0;
    }

    fn depth(mut self) -> usize {
        self.end_part();
        let balanced = 2 * (usize::BITS - self.connectives.leading_zeros()) as usize;
        self.deepest + self.conditions + balanced
    }
}

/// How deep the tree of a text can be at most, counted without a parser.
fn of_text(source: &str) -> usize {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let mut symbols = Symbols { rest: source.as_bytes(), is_broken: false };
    while let Some(symbol) = symbols.next() {
        match symbol {
            b'(' | b'[' | b'{' => outer.push(std::mem::take(&mut level)),
            b')' | b']' | b'}' => {
                if let Some(before) = outer.pop() {
                    let inside = std::mem::replace(&mut level, before).depth();
                    level.here = level.here.max(inside) + 1;
                }
            }
            b',' | b':' => level.end_part(),
            b'&' | b'|' => {
                level.end_part();
                level.connectives += 1;
            }
            b'?' => {
                level.end_part();
                level.conditions += 1;
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'.' | b'!' | b'<' | b'>' | b'=' | b'i' => level.here += 1,
            _ => {}
        }
    }
    // Brackets that nobody closes.
    while let Some(before) = outer.pop() {
        let inside = std::mem::replace(&mut level, before).depth();
        level.here = level.here.max(inside) + 1;
    }
    level.depth()
}

/// The symbols of an expression outside of its texts and comments; `i` stands for the operator `in`, and a space for
/// other words, numbers and texts. From the first quote on that begins no text, which is a mistake in any case,
/// everything counts: it isn't known where the lexer goes on.
struct Symbols<'a> {
    rest: &'a [u8],
    is_broken: bool,
}

impl Symbols<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        let is_word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_' || *c >= 0x80;
        match first {
            b'/' if rest.first() == Some(&b'/') && !self.is_broken => {
                let end = rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
                self.rest = &rest[end..];
                Some(b' ')
            }
            b'"' | b'\'' | b'`' => {
                self.skip_text(false);
                Some(b' ')
            }
            c if is_word(c) => {
                let end = rest.iter().position(|c| !is_word(c)).unwrap_or(rest.len());
                let (word, after) = self.rest.split_at(end + 1);
                self.rest = after;
                if after.first().is_some_and(|c| matches!(c, b'"' | b'\'')) {
                    self.is_broken |= word.iter().any(|c| !c.is_ascii_alphabetic());
                    self.skip_text(matches!(word, b"r" | b"R" | b"br" | b"bR" | b"Br" | b"BR"));
                }
                Some(if word == b"in" { b'i' } else { b' ' })
            }
            other => {
                self.rest = rest;
                Some(*other)
            }
        }
    }

    fn skip_text(&mut self, is_raw: bool) {
        let end = if self.is_broken { None } else { end_of_text(self.rest, is_raw) };
        self.is_broken |= end.is_none();
        self.rest = self.rest.get(end.unwrap_or(1)..).unwrap_or_default();
    }
}

/// Where the text that begins with a quote ends, if it is one by the language's grammar.
fn end_of_text(from: &[u8], is_raw: bool) -> Option<usize> {
    let quote = *from.first()?;
    if quote == b'`' {
        let is_name = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b'/' | b' ');
        let end = from.iter().skip(1).position(|c| !is_name(c))?;
        return (end > 0 && from.get(end + 1) == Some(&quote)).then_some(end + 2);
    }
    let triple = [quote; 3];
    if from.starts_with(&triple)
        && let Some(end) = find_end(from, 3, is_raw, |rest| rest.starts_with(&triple))
    {
        return Some(end + 3);
    }
    find_end(from, 1, is_raw, |rest| rest.first() == Some(&quote)).and_then(|end| {
        let is_on_one_line = !from[..end].iter().any(|c| matches!(c, b'\n' | b'\r'));
        is_on_one_line.then_some(end + 1)
    })
}

fn find_end(text: &[u8], start: usize, is_raw: bool, ends: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let mut at = start;
    while let Some(c) = text.get(at) {
        if ends(&text[at..]) {
            return Some(at);
        }
        at += if *c == b'\\' && !is_raw { escape_length(&text[at..])? } else { 1 };
    }
    None
}

/// How long an escape is; `None` for one that the language hasn't got.
fn escape_length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize, count: usize, is_digit: fn(&u8) -> bool| {
        let found = text.get(from..from + count).is_some_and(|digits| digits.iter().all(is_digit));
        found.then_some(from + count)
    };
    match text.get(1)? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => Some(2),
        b'x' | b'X' => digits(2, 2, u8::is_ascii_hexdigit),
        b'u' => digits(2, 4, u8::is_ascii_hexdigit),
        b'U' => digits(2, 8, u8::is_ascii_hexdigit),
        b'0'..=b'3' => digits(1, 3, |c| (b'0'..=b'7').contains(c)),
        _ => None,
    }
}

/// Runs `parse`, which parses `source`, where the stack suffices.
pub fn guarded<T: Send>(source: &str, parse: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    let depth = of_text(source);
    if depth > DEEPEST_TEXT {
        return Err(too_deep());
    }
    if depth <= SHALLOW_DEPTH {
        return parse();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".into()).stack_size(STACK_BYTES).spawn_scoped(scope, parse);
        let thread = thread.map_err(|e| format!("no thread can be started to read the expression: {e}"))?;
        thread.join().unwrap_or_else(|_| Err("the expression can't be read".into()))
    })
}

fn too_deep() -> String {
    format!("expression recursion limit exceeded: {MAX_DEPTH}")
}

/// Refuses a tree that is too deep to be evaluated.
pub fn check(tree: &IdedExpr) -> Result<(), String> {
    let mut level = vec![tree];
    for _ in 0..MAX_DEPTH {
        level = level.into_iter().flat_map(parts).collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    Err(too_deep())
}

/// What an expression consists of.
fn parts(of: &IdedExpr) -> Vec<&IdedExpr> {
    match &of.expr {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Expr::Comprehension(c) => {
            vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|e| entry_parts(&e.expr)).collect(),
        Expr::Struct(made) => made.entries.iter().flat_map(|e| entry_parts(&e.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
