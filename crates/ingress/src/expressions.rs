//! Regular expressions of Ingresses and routes. A line of text can become a megabyte of program, and who may write an Ingress can write
//! thousands of lines, which every node's ingress keeps: so a namespace has a share for its own, and all have one together. What was
//! compiled is kept from one table to the next, as a table is made anew at each change of an endpoint.

use std::collections::{HashMap, HashSet};

use regex::{Regex, RegexBuilder};

/// Longer ones aren't looked at.
const MAX_BYTES: usize = 4 << 10;
/// What an expression may take when it is compiled, in bytes. The first of these that is enough is what it counts.
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// What those of a namespace may count together, and those of all.
const SHARE: usize = 4 << 20;
const ALL: usize = 32 << 20;
/// What is kept of an automaton's states while it is used, for each expression and thread (the library's default: 2 MiB).
const STATES: usize = 128 << 10;

/// The text, and whether capital letters are like small ones.
type Source = (String, bool);

/// All that the table has, and what they count.
#[derive(Debug, Default)]
pub struct Expressions {
    compiled: HashMap<Source, Result<(Regex, usize), usize>>,
    /// Since the table was begun, and whose they are.
    used: HashMap<Source, HashSet<String>>,
    shares: HashMap<String, usize>,
    all: usize,
    /// Namespaces that have more than their share, and were told of.
    told: HashSet<String>,
}

/// An expression and what it counts, or what it costs to find out that it is none.
fn compile(text: &str, ignore_case: bool) -> Result<(Regex, usize), usize> {
    if text.len() > MAX_BYTES {
        return Err(0);
    }
    for size in SIZES {
        let mut builder = RegexBuilder::new(text);
        builder.case_insensitive(ignore_case).size_limit(size).dfa_size_limit(STATES);
        match builder.build() {
            Ok(expression) => return Ok((expression, size)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => return Err(SIZES[0]),
        }
    }
    Err(SIZES[3])
}

impl Expressions {
    /// A table is begun: shares are whole again.
    pub fn begin(&mut self) {
        self.used.clear();
        self.shares.clear();
        self.all = 0;
    }

    /// The table is made: what it hasn't got isn't kept.
    pub fn end(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.compiled.retain(|source, _| used.contains_key(source));
        let shares = &self.shares;
        self.told.retain(|namespace| shares.contains_key(namespace));
    }

    /// The expression of a namespace's object; nothing if it is none, or its namespace has more than its share.
    pub fn get(&mut self, namespace: &str, text: &str, ignore_case: bool) -> Option<Regex> {
        let source = (text.to_string(), ignore_case);
        let share = self.shares.entry(namespace.into()).or_default();
        let owners = self.used.get(&source);
        let (is_new, is_own) = (owners.is_none(), owners.is_some_and(|owners| owners.contains(namespace)));
        if (!is_own && *share >= SHARE) || (is_new && self.all >= ALL) {
            if self.told.insert(namespace.into()) {
                tracing::warn!(
                    namespace,
                    "ignored paths with regular expressions: there are more than there is room for"
                );
            }
            return None;
        }
        let known = self.compiled.entry(source.clone()).or_insert_with(|| compile(text, ignore_case));
        let size = match known {
            Ok((_, size)) | Err(size) => *size,
        };
        if !is_own {
            *share = share.saturating_add(size);
        }
        if is_new {
            self.all = self.all.saturating_add(size);
        }
        self.used.entry(source).or_default().insert(namespace.into());
        known.as_ref().ok().map(|(expression, _)| expression.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these a namespace gets.
    fn granted(expressions: &mut Expressions, namespace: &str, texts: impl Iterator<Item = String>) -> usize {
        texts.filter(|text| expressions.get(namespace, text, true).is_some()).count()
    }

    #[test]
    fn a_namespace_has_its_share_and_leaves_that_of_others() {
        let mut expressions = Expressions::default();
        expressions.begin();
        // As people write them: very many have place.
        let plain = |name: &'static str| (0..800).map(move |n| format!("^/{name}{n}(/|$)(.*)"));
        assert_eq!(granted(&mut expressions, "calm", plain("a")), 800);
        // As who wants to fill the memory writes them.
        let large = |name: &'static str, width: usize| (0..400).map(move |n| format!("^/{name}{n}/[a-z]{{{width}}}"));
        let had = granted(&mut expressions, "wild", large("a", 50));
        assert!((1..=SHARE / SIZES[1]).contains(&had), "{had}");
        assert_eq!(granted(&mut expressions, "wild", plain("b")), 0);
        // What is too large counts, too, as it costs the time to find that out.
        assert_eq!(granted(&mut expressions, "vast", large("b", 5000)), 0);
        assert_eq!(granted(&mut expressions, "vast", plain("c")), 0);
        assert_eq!(granted(&mut expressions, "other", plain("d")), 800);
        for namespace in ["n1", "n2", "n3", "n4", "n5", "n6", "n7"] {
            granted(&mut expressions, namespace, large(namespace, 50));
        }
        assert!(expressions.all <= ALL + SIZES[3], "{}", expressions.all);
    }

    #[test]
    fn what_is_in_the_next_table_too_is_not_compiled_again() {
        let mut expressions = Expressions::default();
        for round in 0..3 {
            expressions.begin();
            assert!(expressions.get("n", "^/kept", true).is_some_and(|e| e.is_match("/Kept/x")));
            // Of both ports, and of another namespace.
            assert!(expressions.get("n", "^/kept", true).is_some() && expressions.get("m", "^/kept", true).is_some());
            assert!(expressions.get("n", &format!("^/{round}"), false).is_some());
            assert!(expressions.get("n", "^/(", true).is_none());
            assert!(expressions.get("n", &"a".repeat(MAX_BYTES + 1), true).is_none());
            expressions.end();
            assert_eq!(expressions.compiled.len(), 4);
        }
    }
}
