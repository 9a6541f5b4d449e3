//! JSON patch (RFC 6902) as upstream's library reads it: `replace` of a member that isn't there adds it, and an index may
//! count from the end.
//!
//! Patches are written by others, so they are bounded: in steps, in what `copy` adds, in the depth of the result, and in
//! the work that all steps together are.

use serde_json::{Map, Value};

use super::PatchError;
use crate::bounded::{MAX_DEPTH, MAX_REQUEST_BYTES, Measure};

/// The most steps of one patch (upstream: `maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that all copies of a patch add (upstream: `JSONPatchMaxCopyBytes`).
const MAX_COPIED_BYTES: usize = MAX_REQUEST_BYTES;
/// The most values that all steps of a patch look at or move.
const MAX_WORK: usize = 50_000_000;

#[derive(Default)]
struct Spent {
    copied: usize,
    work: usize,
}

impl Spent {
    fn work(&mut self, values: usize) -> Result<(), PatchError> {
        self.work = self.work.saturating_add(values);
        if self.work > MAX_WORK { fail("the patch moves too many values") } else { Ok(()) }
    }
}

fn fail<T>(why: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Json(why.into()))
}

/// A step of a patch.
struct Step<'a>(&'a Map<String, Value>);

impl<'a> Step<'a> {
    fn text(&self, field: &str) -> Result<&'a str, PatchError> {
        match self.0.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => fail(format!("operation has invalid {field} field: it must be a string")),
            None => fail(format!("operation missing {field} field: missing value")),
        }
    }

    fn value(&self) -> Value {
        self.0.get("value").cloned().unwrap_or(Value::Null)
    }
}

/// Carries out all steps of a patch, or fails at one of them; the object is of no use then.
///
/// # Errors
/// When the patch isn't a list of steps or has too many, when a path leads nowhere, and when a test doesn't hold.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(steps) = patch else { return Err(PatchError::Form("a JSON patch must be a list".into())) };
    if steps.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManySteps { most: MAX_OPERATIONS, got: steps.len() });
    }
    let mut spent = Spent::default();
    for step in steps {
        let Value::Object(step) = step else {
            return Err(PatchError::Form("each step of a JSON patch must be an object".into()));
        };
        let step = Step(step);
        match step.0.get("op").and_then(Value::as_str).unwrap_or("unknown") {
            "add" => add(object, step.text("path")?, step.value(), "add", &mut spent)?,
            "remove" => drop(remove(object, step.text("path")?, "remove", &mut spent)?),
            "replace" => replace(object, step.text("path")?, step.value(), &mut spent)?,
            "move" => {
                let (from, path) = (step.text("from")?, step.text("path")?);
                let value = remove(object, from, "move", &mut spent)?;
                add(object, path, value, "move", &mut spent)?;
            }
            "copy" => {
                let (from, path) = (step.text("from")?, step.text("path")?);
                let value = copy(object, from, &mut spent)?;
                add(object, path, value, "copy", &mut spent)?;
            }
            "test" => test(object, step.text("path")?, step.0.get("value"), &mut spent)?,
            other => return fail(format!("Unexpected kind: {other}")),
        }
    }
    Ok(())
}

/// The steps of a JSON pointer (RFC 6901).
fn pointer(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"))
}

/// What holds the place that a path leads to, and the last step to it.
fn holder<'a>(object: &'a mut Value, path: &str, operation: &str) -> Result<(&'a mut Value, String), PatchError> {
    let missing = || {
        PatchError::Json(format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value"))
    };
    let mut steps: Vec<String> = pointer(path).take(MAX_DEPTH + 2).collect();
    let last = steps.pop().ok_or_else(missing)?;
    let mut at = object;
    for step in &steps {
        at = match at {
            Value::Object(map) => map.get_mut(step),
            Value::Array(items) => {
                let at = index(step, items.len())?;
                items.get_mut(at)
            }
            _ => None,
        }
        .ok_or_else(missing)?;
    }
    if at.is_object() || at.is_array() { Ok((at, last)) } else { Err(missing()) }
}

/// An index, which may count from the end.
fn index(step: &str, length: usize) -> Result<usize, PatchError> {
    let Ok(n) = step.parse::<i64>() else {
        return fail(format!("value was not a proper array index: '{step}'"));
    };
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let at = if n < 0 { n.saturating_add(length) } else { n };
    match usize::try_from(at) {
        Ok(at) if n < length => Ok(at),
        _ => fail(format!("Unable to access invalid index: {n}: invalid index referenced")),
    }
}

fn add(object: &mut Value, path: &str, value: Value, operation: &str, spent: &mut Spent) -> Result<(), PatchError> {
    let measure = Measure::of(&value);
    spent.work(measure.values)?;
    if pointer(path).count().saturating_add(measure.depth) > MAX_DEPTH {
        return fail(format!("error in {operation} for path: '{path}': it nests more than {MAX_DEPTH} deep"));
    }
    match holder(object, path, operation)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(items), step) if step == "-" => items.push(value),
        (Value::Array(items), step) => {
            spent.work(items.len())?;
            // One more than there are: what is added may be the last.
            let at = index(&step, items.len().saturating_add(1))?;
            items.insert(at, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str, operation: &str, spent: &mut Spent) -> Result<Value, PatchError> {
    match holder(object, path, operation)? {
        (Value::Object(map), key) => map.remove(&key).ok_or_else(|| {
            let why = format!("Unable to remove nonexistent key: {key}: missing value");
            PatchError::Json(format!("error in {operation} for path: '{path}': {why}"))
        }),
        (Value::Array(items), step) => {
            spent.work(items.len())?;
            let at = index(&step, items.len())?;
            Ok(items.remove(at))
        }
        _ => Ok(Value::Null),
    }
}

fn replace(object: &mut Value, path: &str, value: Value, spent: &mut Spent) -> Result<(), PatchError> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return fail("replace operation value must be object or array");
        }
        *object = value;
        return Ok(());
    }
    match holder(object, path, "replace")? {
        (Value::Array(items), step) => {
            let at = index(&step, items.len()).map_err(|_| {
                PatchError::Json(format!("replace operation does not apply: doc is missing key: {path}: missing value"))
            })?;
            items[at] = value;
            Ok(())
        }
        _ => add(object, path, value, "replace", spent),
    }
}

fn copy(object: &mut Value, from: &str, spent: &mut Spent) -> Result<Value, PatchError> {
    let found = match holder(object, from, "copy")? {
        (Value::Object(map), key) => map.get(&key),
        (Value::Array(items), step) => {
            let at = index(&step, items.len())?;
            items.get(at)
        }
        _ => None,
    };
    let Some(found) = found else { return Ok(Value::Null) };
    let measure = Measure::of(found);
    spent.work(measure.values)?;
    spent.copied = spent.copied.saturating_add(measure.bytes);
    if spent.copied > MAX_COPIED_BYTES {
        return fail(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED_BYTES}",
            spent.copied
        ));
    }
    Ok(found.clone())
}

fn test(object: &mut Value, path: &str, value: Option<&Value>, spent: &mut Spent) -> Result<(), PatchError> {
    let wanted = value.unwrap_or(&Value::Null);
    spent.work(Measure::of(wanted).values)?;
    let found = if path.is_empty() {
        Some(&*object)
    } else {
        match holder(object, path, "test")? {
            (Value::Object(map), key) => map.get(&key),
            (Value::Array(items), step) => {
                let at = index(&step, items.len())?;
                items.get(at)
            }
            _ => None,
        }
    };
    if found.unwrap_or(&Value::Null) == wanted {
        return Ok(());
    }
    fail(format!("testing value {path} failed: test failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(object: Value, patch: Value) -> Result<Value, String> {
        let mut object = object;
        json_patch(&mut object, &patch).map(|()| object).map_err(|e| e.to_string())
    }

    #[test]
    fn each_operation_does_what_the_rfc_says() {
        for (patch, want) in [
            (json!([{"op": "add", "path": "/l/1", "value": 9}]), json!({"a": {"b/c": 1}, "l": [1, 9, 2]})),
            (json!([{"op": "add", "path": "/l/-", "value": 9}]), json!({"a": {"b/c": 1}, "l": [1, 2, 9]})),
            (json!([{"op": "remove", "path": "/l/-1"}]), json!({"a": {"b/c": 1}, "l": [1]})),
            (json!([{"op": "replace", "path": "/a/b~1c", "value": null}]), json!({"a": {"b/c": null}, "l": [1, 2]})),
            (json!([{"op": "replace", "path": "/new", "value": 1}]), json!({"a": {"b/c": 1}, "l": [1, 2], "new": 1})),
            (json!([{"op": "move", "from": "/l", "path": "/a/l"}]), json!({"a": {"b/c": 1, "l": [1, 2]}})),
            (json!([{"op": "copy", "from": "/l/0", "path": "/x"}]), json!({"a": {"b/c": 1}, "l": [1, 2], "x": 1})),
            (json!([{"op": "test", "path": "/gone", "value": null}]), json!({"a": {"b/c": 1}, "l": [1, 2]})),
        ] {
            assert_eq!(patched(json!({"a": {"b/c": 1}, "l": [1, 2]}), patch.clone()), Ok(want), "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_told_in_upstreams_words() {
        for (patch, want) in [
            (json!([{"op": "test", "path": "/l/0", "value": 5}]), "testing value /l/0 failed: test failed"),
            (json!([{"op": "remove", "path": "/x"}]), "Unable to remove nonexistent key: x: missing value"),
            (
                json!([{"op": "add", "path": "/x/y", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (json!([{"op": "add", "path": "/l/7", "value": 1}]), "Unable to access invalid index: 7"),
            (json!([{"op": "replace", "path": "/l/2", "value": 1}]), "doc is missing key: /l/2"),
            (json!([{"op": "jump", "path": "/l"}]), "Unexpected kind: jump"),
            (json!([{"op": "add"}]), "operation missing path field"),
        ] {
            let error = patched(json!({"l": [1, 2]}), patch.clone()).unwrap_err();
            assert!(error.contains(want), "{patch}: {error}");
        }
    }

    #[test]
    fn patches_are_bound_in_steps_copies_depth_and_work() {
        let many = vec![json!({"op": "test", "path": "/l", "value": []}); MAX_OPERATIONS + 1];
        let error = patched(json!({"l": []}), json!(many)).unwrap_err();
        assert_eq!(error, "The allowed maximum operations in a JSON patch is 10000, got 10001");
        // Each copy holds all earlier ones.
        let grow: Vec<Value> =
            (0..32).map(|i| json!({"op": "copy", "from": "/x", "path": format!("/x/k{i}")})).collect();
        let error = patched(json!({"x": {"a": "x".repeat(1000)}}), json!(grow)).unwrap_err();
        assert!(error.contains("exceeding the limit"), "{error}");
        let mut deep = Vec::new();
        let mut path = "/x".to_string();
        for i in 0..17 {
            path = path.repeat(2);
            deep.push(json!({"op": "copy", "from": "/x", "path": format!("/x{}", "/x".repeat(1 << i))}));
        }
        let error = patched(json!({"x": {}}), json!(deep)).unwrap_err();
        assert!(error.contains("nests more than"), "{error}");
        let long: Vec<u32> = vec![0; 100_000];
        let shove = vec![json!({"op": "add", "path": "/l/0", "value": 1}); 9_000];
        let error = patched(json!({"l": long}), json!(shove)).unwrap_err();
        assert!(error.contains("moves too many values"), "{error}");
    }
}
