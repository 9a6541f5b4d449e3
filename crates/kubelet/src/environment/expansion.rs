//! Variables in the place of their names, within bounds. Alone in its file, so that it can be fuzzed.

use std::collections::BTreeMap;

/// The most that one text may become by expansion, and all variables or all arguments of a container together, in bytes: the kernel takes no
/// more (`MAX_ARG_STRLEN` and `ARG_MAX` are less). Texts that name one another grow with each step, so that a few lines could fill the memory.
const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_TOTAL_BYTES: usize = 2 << 20;

/// What doesn't fit in the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// One value.
    #[error("a value is longer than {MAX_VALUE_BYTES} bytes once the variables in it are expanded")]
    One,
    /// All together.
    #[error("together they are longer than {MAX_TOTAL_BYTES} bytes")]
    All,
}

/// Variables by their names, bounded as a whole.
#[derive(Debug, Default)]
pub struct Variables {
    known: BTreeMap<String, String>,
    size: usize,
}

impl Variables {
    /// All variables so far.
    pub fn known(&self) -> &BTreeMap<String, String> {
        &self.known
    }

    /// All variables.
    pub fn into_known(self) -> BTreeMap<String, String> {
        self.known
    }

    /// # Errors
    /// When they become too many.
    pub fn insert(&mut self, name: String, value: String) -> Result<(), TooLarge> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(TooLarge::One);
        }
        self.size = self.size.saturating_add(name.len()).saturating_add(value.len());
        let (length, before) = (name.len(), self.known.insert(name, value));
        self.size = self.size.saturating_sub(before.map_or(0, |before| before.len().saturating_add(length)));
        if self.size > MAX_TOTAL_BYTES { Err(TooLarge::All) } else { Ok(()) }
    }
}

/// Why a text in which all names must be known can't be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpansionError {
    /// It becomes too long.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A name isn't known.
    #[error("missing value for {0:?}")]
    Missing(String),
}

/// Expands `$(NAME)` from what is known so far; `$$(NAME)` stays as `$(NAME)`. Unknown names stay as they are.
///
/// # Errors
/// When the text becomes too long.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> Result<String, TooLarge> {
    expand_noting(text, known, |_| {})
}

/// [`expand`], where every name must be known.
///
/// # Errors
/// When one isn't, or the text becomes too long.
pub fn expand_known(text: &str, known: &BTreeMap<String, String>) -> Result<String, ExpansionError> {
    let mut missing = None;
    let expanded = expand_noting(text, known, |name| missing = missing.take().or_else(|| Some(name.to_string())))?;
    missing.map_or(Ok(expanded), |name| Err(ExpansionError::Missing(name)))
}

fn expand_noting(
    text: &str,
    known: &BTreeMap<String, String>,
    mut note_missing: impl FnMut(&str),
) -> Result<String, TooLarge> {
    let mut out = String::new();
    let mut push = |part: &str| {
        if out.len().saturating_add(part.len()) > MAX_VALUE_BYTES {
            return Err(TooLarge::One);
        }
        out.push_str(part);
        Ok(())
    };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push(&rest[..at])?;
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            push("$")?;
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match known.get(name) {
                Some(value) => push(value)?,
                None => {
                    note_missing(name);
                    push(rest.strip_suffix(after).unwrap_or(rest))?;
                }
            }
            rest = after;
        } else {
            push("$")?;
            rest = &rest[1..];
        }
    }
    push(rest)?;
    Ok(out)
}

/// Expands all texts of a list.
///
/// # Errors
/// When one, or all together, become too long.
pub fn expand_all(list: &[String], known: &BTreeMap<String, String>) -> Result<Vec<String>, TooLarge> {
    let (mut all, mut size) = (Vec::new(), 0_usize);
    for text in list {
        let text = expand(text, known)?;
        size = size.saturating_add(text.len());
        if size > MAX_TOTAL_BYTES {
            return Err(TooLarge::All);
        }
        all.push(text);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_once() {
        let known = BTreeMap::from([("A".to_string(), "1".to_string()), ("B".to_string(), "$(A)".to_string())]);
        for (text, want) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &known).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(expand_known("x$(A)$$(MISSING)", &known).as_deref(), Ok("x1$(MISSING)"));
        assert_eq!(expand_known("$(A)$(MISSING)$(B)", &known), Err(ExpansionError::Missing("MISSING".into())));
    }

    /// Each names the one before two hundred times: 4.8 KB of a pod would be gigabytes.
    #[test]
    fn variables_that_name_one_another_dont_fill_the_memory() {
        let mut all = Variables::default();
        let mut names = vec![("A".to_string(), "a".repeat(1000))];
        names.extend(["AB", "BC", "CD", "DE"].map(|pair| (pair[1..].into(), format!("$({})", &pair[..1]).repeat(200))));
        let insert = |(name, text): (String, String)| {
            let value = expand(&text, &all.known)?;
            all.insert(name, value)
        };
        let told: Vec<Result<(), TooLarge>> = names.into_iter().map(insert).collect();
        assert_eq!(told[..3], [Ok(()), Ok(()), Err(TooLarge::One)]);
        assert!(all.known.values().all(|value| value.len() <= MAX_VALUE_BYTES));
        let list = vec!["$(B)".to_string(); 20];
        assert_eq!(expand_all(&list, &all.known), Err(TooLarge::All));
        assert_eq!(expand_all(&list[..2], &all.known).map(|all| all.len()), Ok(2));
    }

    #[test]
    fn variables_are_bounded_as_a_whole_and_may_be_given_anew() {
        let mut all = Variables::default();
        let large = || "x".repeat(MAX_VALUE_BYTES - 10);
        for _ in 0..5 {
            assert_eq!(all.insert("A".into(), large()), Ok(()));
        }
        assert_eq!(all.insert("B".into(), large()), Ok(()));
        assert_eq!(all.insert("C".into(), large()), Err(TooLarge::All));
        assert_eq!(all.insert("D".into(), "x".repeat(MAX_VALUE_BYTES + 1)), Err(TooLarge::One));
    }
}
