//! What `scale` reads of a custom resource, which must be numbers and texts (upstream's `ValidateScaleSpec`, `ValidateScaleStatus`).

use apimachinery::Cause;
use serde_json::Value;

/// Where a custom kind keeps what `scale` shows, as field names from the root.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// The number that is wanted (`specReplicasPath`).
    pub spec_replicas: Vec<String>,
    /// The number that is there (`statusReplicasPath`).
    pub status_replicas: Vec<String>,
    /// The selector of the pods, as text (`labelSelectorPath`).
    pub selector: Option<Vec<String>>,
}

/// `.spec.replicas` as field names.
pub(super) fn names(path: &str) -> Vec<String> {
    path.split('.').filter(|p| !p.is_empty()).map(String::from).collect()
}

/// The spec is looked at only where it is written.
pub(super) fn check(paths: &ScalePaths, object: &Value, with_spec: bool, causes: &mut Vec<Cause>) {
    if with_spec {
        replicas(object, &paths.spec_replicas, causes);
    }
    replicas(object, &paths.status_replicas, causes);
    if let Some(path) = &paths.selector
        && let Err(why) = find(object, path, "string", Value::is_string)
    {
        causes.push(Cause::invalid(dotted(path), &Value::from(""), &why));
    }
}

fn replicas(object: &Value, path: &[String], causes: &mut Vec<Cause>) {
    const MOST: i64 = i32::MAX as i64;
    let mut invalid = |count: i64, why: &str| causes.push(Cause::invalid(dotted(path), &Value::from(count), why));
    match find(object, path, "int64", Value::is_i64).map(|found| found.and_then(Value::as_i64).unwrap_or(0)) {
        Err(why) => invalid(0, &why),
        Ok(count) if count < 0 => invalid(count, "should be a non-negative integer"),
        Ok(count) if count > MOST => invalid(count, &format!("should be less than or equal to {MOST}")),
        Ok(_) => {}
    }
}

fn dotted(path: &[String]) -> String {
    format!(".{}", path.join("."))
}

/// The value at a path, if there is one; what is there must have the type (`NestedFieldNoCopy`).
fn find<'a>(
    object: &'a Value,
    path: &[String],
    wanted: &str,
    fits: fn(&Value) -> bool,
) -> Result<Option<&'a Value>, String> {
    let wrong = |depth: usize, value: &Value, wanted: &str| {
        let at = dotted(&path[..depth]);
        format!("{at} accessor error: {} is of the type {}, expected {wanted}", shown(value), go_type(value))
    };
    let mut at = object;
    for (depth, step) in path.iter().enumerate() {
        if at.is_null() {
            return Ok(None);
        }
        if !at.is_object() {
            return Err(wrong(depth + 1, at, "map[string]interface{}"));
        }
        let Some(below) = at.get(step) else { return Ok(None) };
        at = below;
    }
    if fits(at) { Ok(Some(at)) } else { Err(wrong(path.len(), at, wanted)) }
}

fn shown(value: &Value) -> String {
    if value.is_null() {
        return "<nil>".into();
    }
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
