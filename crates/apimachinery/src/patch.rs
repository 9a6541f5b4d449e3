//! The three patch formats that are not server-side apply: JSON patch (RFC 6902), merge patch (RFC 7386) and
//! Kubernetes' strategic merge patch.
//!
//! Strategic merge needs to know, per field, whether a list is merged by a key or replaced. That knowledge lives in
//! the `api` crate and comes in through [`MergeStrategy`].

use serde_json::{Map, Value};

/// How the list in a field is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListMerge {
    /// The patch's list replaces the list.
    Replace,
    /// Items are objects, matched by this field.
    ByKey(String),
    /// Items are scalars, united.
    Set,
}

/// Looks merge strategies up by the path of field names from the root of the object (list items add nothing).
pub trait MergeStrategy {
    fn list(&self, path: &[String]) -> ListMerge;
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PatchError {
    #[error("{0}")]
    Json(String),
    #[error("map: {0:?} does not contain declared merge key: {1}")]
    MissingMergeKey(Value, String),
    #[error("unknown $patch directive {0:?}")]
    Directive(String),
}

/// RFC 6902.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Json(e.to_string()))?;
    json_patch::patch(object, &patch).map_err(|e| PatchError::Json(e.to_string()))
}

/// RFC 7386.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// Strategic merge patch, with `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder`.
pub fn strategic_merge(object: &mut Value, patch: &Value, strategy: &dyn MergeStrategy) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Json("a strategic merge patch must be an object".into()));
    };
    merge_object(object, patch, &mut Vec::new(), strategy)
}

fn merge_object(
    target: &mut Value,
    patch: &Map<String, Value>,
    path: &mut Vec<String>,
    strategy: &dyn MergeStrategy,
) -> Result<(), PatchError> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            let kept = patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone()));
            *target = Value::Object(kept.collect());
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(PatchError::Directive(other.into())),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { unreachable!("made an object just above") };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|k, _| keep.iter().any(|x| x == k));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(list)) = map.get_mut(field) {
                list.retain(|v| !gone.contains(v));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        path.push(key.clone());
        match value {
            Value::Null => {
                map.remove(key);
            }
            Value::Object(inner) => {
                merge_object(map.entry(key.clone()).or_insert(Value::Null), inner, path, strategy)?;
            }
            Value::Array(items) => {
                let order = patch.get(&format!("$setElementOrder/{key}")).and_then(Value::as_array);
                merge_list(map.entry(key.clone()).or_insert(Value::Null), items, order, path, strategy)?;
            }
            scalar => {
                map.insert(key.clone(), scalar.clone());
            }
        }
        path.pop();
    }
    // An order may come alone, for a list whose items did not change.
    for (key, order) in patch.iter().filter_map(|(k, v)| Some((k.strip_prefix("$setElementOrder/")?, v))) {
        if patch.contains_key(key) {
            continue;
        }
        path.push(key.into());
        if let (Some(Value::Array(list)), Some(order)) = (map.get_mut(key), order.as_array()) {
            let before = list.clone();
            reorder(list, order, &before, &strategy.list(path));
        }
        path.pop();
    }
    Ok(())
}

fn merge_list(
    target: &mut Value,
    patch: &[Value],
    order: Option<&Vec<Value>>,
    path: &mut Vec<String>,
    strategy: &dyn MergeStrategy,
) -> Result<(), PatchError> {
    let merge = strategy.list(path);
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(String::from);
    let replace_all = patch.iter().any(|i| directive(i).as_deref() == Some("replace"));
    if merge == ListMerge::Replace || replace_all || !target.is_array() {
        let kept = patch.iter().filter(|i| directive(i).is_none()).cloned().collect();
        *target = Value::Array(kept);
        return Ok(());
    }
    let Value::Array(list) = target else { unreachable!("checked just above") };
    let before = list.clone();
    match merge {
        ListMerge::Replace => {}
        ListMerge::Set => {
            for item in patch {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        ListMerge::ByKey(ref key) => {
            for item in patch {
                let id = item.get(key).ok_or_else(|| PatchError::MissingMergeKey(item.clone(), key.clone()))?;
                let at = list.iter().position(|x| x.get(key) == Some(id));
                match (directive(item).as_deref(), at) {
                    (Some("delete"), at) => {
                        if let Some(at) = at {
                            list.remove(at);
                        }
                    }
                    (_, Some(at)) => {
                        if let Value::Object(inner) = item {
                            merge_object(&mut list[at], inner, path, strategy)?;
                        }
                    }
                    (_, None) => {
                        // Merged into nothing, so that directives inside don't stay in the object.
                        let mut fresh = Value::Null;
                        match item {
                            Value::Object(inner) => merge_object(&mut fresh, inner, path, strategy)?,
                            other => fresh = other.clone(),
                        }
                        list.push(fresh);
                    }
                }
            }
        }
    }
    reorder(list, order.map_or(patch, Vec::as_slice), &before, &merge);
    Ok(())
}

/// Puts the items that `order` names into its order, between those that it doesn't name, which stay in the order of
/// `before`: an item that was in front of another there stays so, and what is new comes first.
fn reorder(list: &mut Vec<Value>, order: &[Value], before: &[Value], merge: &ListMerge) {
    let place = |item: &Value, among: &[Value]| {
        among.iter().position(|o| match merge {
            ListMerge::ByKey(key) => o.get(key).is_some() && o.get(key) == item.get(key),
            _ => o == item,
        })
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        std::mem::take(list).into_iter().partition(|item| place(item, order).is_some());
    named.sort_by_key(|item| place(item, order));
    others.sort_by_key(|item| place(item, before));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => match (place(other, before), place(name, before)) {
                (Some(a), Some(b)) if a < b => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => others.next(),
            (None, _) => named.next(),
        };
        let Some(next) = next else { return };
        list.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Containers;
    impl MergeStrategy for Containers {
        fn list(&self, path: &[String]) -> ListMerge {
            match path.last().map(String::as_str) {
                Some("containers" | "env") => ListMerge::ByKey("name".into()),
                Some("finalizers") => ListMerge::Set,
                _ => ListMerge::Replace,
            }
        }
    }

    fn check(object: Value, patch: Value, want: Value) {
        let mut got = object;
        strategic_merge(&mut got, &patch, &Containers).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn lists_with_a_merge_key_are_merged_item_by_item() {
        check(
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]}),
            json!({"containers": [
                {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
                {"name": "c"}, {"name": "b"}]}),
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}], "args": ["x"]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}], "args": ["y"]}),
            json!({"containers": [{"name": "b"}], "args": ["y"]}),
        );
        check(
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        );
        check(
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}),
            json!({"finalizers": ["c", "b"]}),
        );
    }

    #[test]
    fn element_order_is_kept() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
                   "containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}),
        );
    }
}
