//! Functions of texts whose price depends on two of their arguments together, or on their result.

use cel::common::types::{CelBool, CelInt, CelList, CelString, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};
use regex::Regex;

use super::function::{Outcome, failed};
use crate::budget;

/// A regular expression in Go's syntax (RE2), which may not become large.
///
/// # Errors
/// When it is malformed or becomes too large, in Go's words.
pub fn regular(text: &str) -> Result<Regex, String> {
    let made = regex::RegexBuilder::new(&in_rust(text)).size_limit(4 << 20).build();
    made.map_err(|e| format!("error parsing regexp: {}", e.to_string().lines().last().unwrap_or_default()))
}

/// The same expression for the crate `regex`, which differs from RE2 in two things: it has operators between sets of characters (`[`, `&&` and `~~`
/// within brackets stand for themselves in RE2), and `\d`, `\s` and `\w` have all of Unicode's characters there, in RE2 only ASCII's.
fn in_rust(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut in_class = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('d') => out.push_str(if in_class { "0-9" } else { "[0-9]" }),
                Some('w') => out.push_str(if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('s') => out.push_str(if in_class { "\\t\\n\\f\\r " } else { "[\\t\\n\\f\\r ]" }),
                Some('D') if !in_class => out.push_str("[^0-9]"),
                Some('W') if !in_class => out.push_str("[^0-9A-Za-z_]"),
                Some('S') if !in_class => out.push_str("[^\\t\\n\\f\\r ]"),
                other => out.extend(std::iter::once(c).chain(other)),
            },
            '[' if !in_class => {
                in_class = true;
                out.push(c);
                out.extend(rest.next_if_eq(&'^'));
                // In the first place it is a character like others.
                if rest.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if rest.peek() == Some(&':') => {
                out.push(c);
                // A named class, as [:alpha:].
                for c in rest.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            ']' => {
                in_class = false;
                out.push(c);
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

fn length(text: &str) -> u64 {
    text.chars().count() as u64
}

/// Every character of a text may meet every part of a pattern, and a part is taken to have four characters.
fn search(text: &str, pattern: &str) -> Outcome<Regex> {
    budget::spend((length(text) + 1).div_ceil(10).saturating_mul(length(pattern).div_ceil(4)))?;
    regular(pattern).or_else(|why| failed("matches", why))
}

fn matches(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelBool> {
    Ok(search(text.inner(), pattern.inner())?.is_match(text.inner()).into())
}

fn global_matches(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelBool> {
    matches(text, pattern)
}

fn contains(text: &CelString<'_>, part: &CelString<'_>) -> Outcome<CelBool> {
    budget::spend(length(text.inner()).div_ceil(10).saturating_mul(length(part.inner()).div_ceil(10)))?;
    Ok(text.inner().contains(part.inner()).into())
}

fn find(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelString<'static>> {
    let found = search(text.inner(), pattern.inner())?.find(text.inner()).map(|m| m.as_str().to_string());
    Ok(found.unwrap_or_default().into())
}

fn found(text: &str, pattern: &str, most: usize) -> Outcome<CelList<'static>> {
    let all = search(text, pattern)?;
    let all = all.find_iter(text).take(most);
    let texts: Vec<Box<dyn Val>> =
        all.map(|m| -> Box<dyn Val> { Box::new(CelString::from(m.as_str().to_string())) }).collect();
    Ok(CelList::from(texts))
}

fn find_all(text: &CelString<'_>, pattern: &CelString<'_>) -> Outcome<CelList<'static>> {
    found(text.inner(), pattern.inner(), usize::MAX)
}

fn find_some(text: &CelString<'_>, pattern: &CelString<'_>, most: &CelInt) -> Outcome<CelList<'static>> {
    found(text.inner(), pattern.inner(), usize::try_from(*most.inner()).unwrap_or(usize::MAX))
}

/// Pays for a text before it is made.
fn afford(bytes: usize) -> Outcome<()> {
    budget::spend((bytes as u64).div_ceil(5))
}

fn replaced(text: &str, old: &str, new: &str, most: usize) -> Outcome<CelString<'static>> {
    afford(text.len())?;
    let count = text.matches(old).take(most).count();
    afford(text.len().saturating_add(new.len().saturating_mul(count)))?;
    Ok(text.replacen(old, new, most).into())
}

fn replace(text: &CelString<'_>, old: &CelString<'_>, new: &CelString<'_>) -> Outcome<CelString<'static>> {
    replaced(text.inner(), old.inner(), new.inner(), usize::MAX)
}

fn replace_some(
    text: &CelString<'_>,
    old: &CelString<'_>,
    new: &CelString<'_>,
    most: &CelInt,
) -> Outcome<CelString<'static>> {
    replaced(text.inner(), old.inner(), new.inner(), usize::try_from(*most.inner()).unwrap_or(usize::MAX))
}

fn join<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let Some(list) = arguments.first().and_then(|a| a.downcast_ref::<CelList>()) else {
        return failed("join", "it is for lists");
    };
    let separator = arguments.get(1).and_then(|a| a.downcast_ref::<CelString>()).map_or("", |text| text.inner());
    let mut texts = Vec::with_capacity(list.inner().len());
    for item in list.inner() {
        match item.downcast_ref::<CelString>() {
            Some(text) => texts.push(text.inner()),
            None => return Err(ExecutionError::function_error("join", "only texts can be joined")),
        }
    }
    let parts = texts.iter().fold(0usize, |sum, text| sum.saturating_add(text.len()));
    afford(parts.saturating_add(separator.len().saturating_mul(texts.len())))?;
    Ok(CowVal::owned(CelString::from(texts.join(separator))))
}

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    add_member_overload!(env, fn find: (CelString, CelString) -> Result<CelString>)?;
    add_member_overload!(env, fn find_all: (CelString, CelString) -> Result<CelList>)?;
    add_member_overload!(env, fn find_some: (CelString, CelString, CelInt) -> Result<CelList>, name = "findAll")?;
    add_member_overload!(env, fn matches: (CelString, CelString) -> Result<CelBool>, name = "@matches")?;
    add_overload!(env, fn global_matches: (CelString, CelString) -> Result<CelBool>, name = "@matches")?;
    add_member_overload!(env, fn contains: (CelString, CelString) -> Result<CelBool>, name = "@contains")?;
    add_member_overload!(env, fn replace: (CelString, CelString, CelString) -> Result<CelString>, name = "@replace")?;
    add_member_overload!(env, fn replace_some: (CelString, CelString, CelString, CelInt) -> Result<CelString>,
        name = "@replace")?;
    env.add_member_overload("@join", "join_list", LIST_TYPE, vec![], join)?;
    env.add_member_overload("@join", "join_list_text", LIST_TYPE, vec![STRING_TYPE], join)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_read_as_go_reads_them() {
        for (pattern, yes, no) in [
            ("^[[a]$", "[", "b"),
            (r#"^[^()<>@,;:\"\/[\]?={} \t]+$"#, "name", "a b"),
            ("^[]a]$", "]", "b"),
            ("^[^]a]$", "b", "]"),
            ("^[a&&b]$", "&", "c"),
            ("^[[:alpha:]~~]$", "~", "1"),
            (r"^\[a\]$", "[a]", "a"),
            (r"^\d[\w-]*\S$", "1-_a", "١a"),
        ] {
            let made = regular(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert!(made.is_match(yes) && !made.is_match(no), "{pattern}");
        }
        assert!(regular("[").is_err());
    }
}
