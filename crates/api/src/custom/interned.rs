//! The names and kinds of custom resource definitions, which live as long as the process.

use parking_lot::Mutex;

use crate::Kind;

/// Names live as long as the process, each once: there are few, and they come from definitions, which only an
/// administrator writes. So a kind of a definition is as cheap to pass around as a built-in one.
static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
static LISTS: Mutex<Vec<&'static [&'static str]>> = Mutex::new(Vec::new());
static KINDS: Mutex<Vec<&'static Kind>> = Mutex::new(Vec::new());

pub(super) fn intern(text: &str) -> &'static str {
    let mut names = NAMES.lock();
    if let Some(found) = names.iter().find(|n| **n == text) {
        return found;
    }
    let kept: &'static str = Box::leak(text.into());
    names.push(kept);
    kept
}

pub(super) fn intern_list(texts: Vec<&'static str>) -> &'static [&'static str] {
    let mut lists = LISTS.lock();
    if let Some(found) = lists.iter().find(|l| **l == texts.as_slice()) {
        return found;
    }
    let kept: &'static [&'static str] = Box::leak(texts.into());
    lists.push(kept);
    kept
}

pub(super) fn intern_kind(kind: Kind) -> &'static Kind {
    let mut kinds = KINDS.lock();
    if let Some(found) = kinds.iter().find(|k| k.is_same_in_all(&kind)) {
        return found;
    }
    let kept: &'static Kind = Box::leak(Box::new(kind));
    kinds.push(kept);
    kept
}
