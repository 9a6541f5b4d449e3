//! Numbers: range of their format, bounds, multiples.

use serde_json::Value;

use super::Report;

pub(super) fn check(schema: &Value, format: &str, v: &Value, path: &str) -> Report {
    let mut report = Report::default();
    let of = schema["type"].as_str().filter(|of| matches!(*of, "integer" | "number")).unwrap_or("");
    if schema[crate::structural::INT_OR_STRING] != true && !in_range(of, format, v) {
        let format = if format.is_empty() { " (default format)".into() } else { format!(" with format {format}") };
        report.placeless(&format!("Checked value must be of type {of}{format} in {path}"));
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step > 0.0)
        && !is_multiple(v, step)
    {
        report.invalid(path, v, &format!("should be a multiple of {}", shown(step)));
    }
    let mut bound = |key: &str, exclusive: &str, word: &str, is_beyond: fn(f64, f64) -> bool| {
        let (Some(n), Some(limit)) = (v.as_f64(), schema[key].as_f64()) else { return };
        let is_exclusive = schema[exclusive] == true;
        if is_beyond(n, limit) || (is_exclusive && n == limit) {
            let or_equal = if is_exclusive { "" } else { " or equal to" };
            report.invalid(path, v, &format!("should be {word} than{or_equal} {}", shown(limit)));
        }
    };
    bound("minimum", "exclusiveMinimum", "greater", |n, least| n < least);
    bound("maximum", "exclusiveMaximum", "less", |n, most| n > most);
    report.matches += 1;
    report
}

/// Whether a number can be kept in the type and format of its schema.
fn in_range(of: &str, format: &str, v: &Value) -> bool {
    match (of, format) {
        ("integer", "int32") => v.as_i64().or_else(|| whole(v)).is_some_and(|n| i32::try_from(n).is_ok()),
        ("integer", _) => v.as_i64().or_else(|| whole(v)).is_some(),
        ("number", "float") => v.as_f64().is_none_or(|n| n.abs() <= f64::from(f32::MAX)),
        _ => true,
    }
}

/// A number with a fraction of nothing.
fn whole(v: &Value) -> Option<i64> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    v.as_f64().filter(|n| n.fract() == 0.0 && (-BEYOND..BEYOND).contains(n)).map(|n| n as i64)
}

fn is_multiple(v: &Value, step: f64) -> bool {
    if let (Some(n), true) = (v.as_i64(), step.fract() == 0.0) {
        return n.checked_rem(step as i64) == Some(0);
    }
    let Some(n) = v.as_f64() else { return true };
    let times = if step < 1.0 { 1.0 / step * n } else { n / step };
    times.fract() == 0.0 || times.fract().abs() / (times.abs() + times.trunc().abs()) < 1e-9
}

/// A number as Go prints it.
fn shown(n: f64) -> String {
    if n == 0.0 || (1e-4..1e21).contains(&n.abs()) {
        return n.to_string();
    }
    let text = format!("{n:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}
