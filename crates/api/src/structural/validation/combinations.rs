//! `anyOf`, `oneOf`, `allOf` and `not`. In these nothing is forgiven that was so before, but with the whole value.

use serde_json::Value;

use super::{Report, strictly};

pub(super) fn check(schema: &Value, v: &Value, path: &str) -> Report {
    let mut report = Report::default();
    let of = |key: &str| -> Vec<Report> {
        let parts = schema[key].as_array().into_iter().flatten();
        parts.map(|part| strictly(part, v, None, path)).collect()
    };
    any_of(of("anyOf"), path, &mut report);
    one_of(of("oneOf"), path, &mut report);
    all_of(of("allOf"), path, &mut report);
    if schema["not"].is_object() && strictly(&schema["not"], v, None, path).is_valid() {
        report.placeless(&format!("{path:?} must not validate the schema (not)"));
    }
    report.matches += 1;
    report
}

/// Of those that fail, the one of which most fits is told of.
fn best(reports: Vec<Report>) -> Option<Report> {
    reports.into_iter().reduce(|best, other| if other.matches > best.matches { other } else { best })
}

fn any_of(parts: Vec<Report>, path: &str, report: &mut Report) {
    if parts.is_empty() {
        return;
    }
    match parts.iter().position(Report::is_valid) {
        Some(first) => report.matches += parts[first].matches,
        None => {
            report.placeless(&format!("{path:?} must validate at least one schema (anyOf)"));
            report.add(best(parts).unwrap_or_default());
        }
    }
}

fn one_of(parts: Vec<Report>, path: &str, report: &mut Report) {
    if parts.is_empty() {
        return;
    }
    let valid: Vec<&Report> = parts.iter().filter(|part| part.is_valid()).collect();
    match valid.as_slice() {
        [one] => report.matches += one.matches,
        [] => {
            report.placeless(&format!("{path:?} must validate one and only one schema (oneOf). Found none valid"));
            report.add(best(parts).unwrap_or_default());
        }
        several => {
            let found = format!("Found {} valid alternatives", several.len());
            report.placeless(&format!("{path:?} must validate one and only one schema (oneOf). {found}"));
        }
    }
}

fn all_of(parts: Vec<Report>, path: &str, report: &mut Report) {
    let (all, valid) = (parts.len(), parts.iter().filter(|part| part.is_valid()).count());
    parts.into_iter().for_each(|part| report.add(part));
    if valid != all {
        let none = if valid == 0 { ". None validated" } else { "" };
        report.placeless(&format!("{path:?} must validate all the schemas (allOf){none}"));
    }
}
