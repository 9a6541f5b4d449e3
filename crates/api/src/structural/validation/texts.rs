//! Texts: length, pattern, format.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::Cause;
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Value, json};

use super::Report;
use crate::structural::formats;

/// How many compiled patterns are kept: they are large, and those of definitions that are gone aren't used again.
const PATTERNS_KEPT: usize = 256;

/// Patterns that were compiled.
static PATTERNS: Mutex<Option<HashMap<String, Option<Arc<Regex>>>>> = Mutex::new(None);

fn pattern(text: &str) -> Option<Arc<Regex>> {
    let mut patterns = PATTERNS.lock();
    let known = patterns.get_or_insert_with(HashMap::new);
    if let Some(found) = known.get(text) {
        return found.clone();
    }
    let compiled = expressions::regular(text).ok().map(Arc::new);
    if known.len() >= PATTERNS_KEPT {
        known.clear();
    }
    known.insert(text.into(), compiled.clone());
    compiled
}

/// The first fault alone is told.
pub(super) fn check(schema: &Value, text: &str, path: &str) -> Report {
    let mut report = Report::default();
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|n| length > *n) {
        let message = format!("Too long: may not be more than {most} bytes");
        report.causes.push(Cause { reason: "FieldValueTooLong", field: path.into(), message });
    } else if let Some(least) = schema["minLength"].as_u64().filter(|n| length < *n) {
        report.invalid(path, &json!(text), &format!("should be at least {least} chars long"));
    } else if let Some(wanted) = schema["pattern"].as_str()
        && pattern(wanted).is_some_and(|p| !p.is_match(text))
    {
        report.invalid(path, &json!(text), &format!("should match '{wanted}'"));
    }
    report
}

pub(super) fn format(format: &str, text: &str, path: &str) -> Report {
    if formats::fits(format, text) {
        return Report::default();
    }
    Cause::type_invalid(path, &json!(text), &format!("{path} in body must be of type {format}: {text:?}")).into()
}
