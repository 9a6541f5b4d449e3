//! The three patch formats that are not server-side apply: JSON patch (RFC 6902), merge patch (RFC 7386) and
//! Kubernetes' strategic merge patch.
//!
//! Strategic merge needs to know, per field, whether a list is merged by a key or replaced. That knowledge lives in
//! the `api` crate and comes in through [`MergeStrategy`].

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

mod json;

pub use json::json_patch;

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
    /// How the list at a path is merged.
    fn list(&self, path: &[String]) -> ListMerge;
}

/// Why a patch can't be applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PatchError {
    /// A JSON patch (RFC 6902) fails: a path isn't there, or a test doesn't hold.
    #[error("{0}")]
    Json(String),
    /// The patch itself isn't what it should be.
    #[error("{0}")]
    Form(String),
    /// A JSON patch has too many operations.
    #[error("The allowed maximum operations in a JSON patch is {most}, got {got}")]
    TooManySteps {
        /// The limit.
        most: usize,
        /// How many there are.
        got: usize,
    },
    /// An item of a list has no merge key.
    #[error("map: {0:?} does not contain declared merge key: {1}")]
    MissingMergeKey(Value, String),
    /// `$patch` has an unknown value.
    #[error("unknown $patch directive {0:?}")]
    Directive(String),
}

/// RFC 7386.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { return };
    for (key, value) in members {
        match value {
            Value::Null => {
                map.remove(key);
            }
            // Not deeper than a patch may nest.
            value => merge_patch(map.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Strategic merge patch, with `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder`.
///
/// # Errors
/// When the patch isn't an object, has an unknown directive, or an item of it lacks the merge key of its list.
pub fn strategic_merge(object: &mut Value, patch: &Value, strategy: &dyn MergeStrategy) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Form("a strategic merge patch must be an object".into()));
    };
    merge_object(object, patch, &mut Vec::new(), strategy)
}

fn merge_object(
    target: &mut Value,
    patch: &Map<String, Value>,
    path: &mut Vec<String>,
    strategy: &dyn MergeStrategy,
) -> Result<(), PatchError> {
    if is_whole(target, patch)? {
        return Ok(());
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { unreachable!("made an object just above") };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        let keep: HashSet<&str> = keep.iter().filter_map(Value::as_str).collect();
        map.retain(|k, _| keep.contains(k.as_str()));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone: HashSet<String> = value.as_array().into_iter().flatten().map(Value::to_string).collect();
            if let Some(Value::Array(list)) = map.get_mut(field) {
                list.retain(|v| !gone.contains(&v.to_string()));
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
    orders_alone(map, patch, path, strategy);
    Ok(())
}

/// Whether the object is replaced or emptied as a whole (`$patch`); if so, it has been.
fn is_whole(target: &mut Value, patch: &Map<String, Value>) -> Result<bool, PatchError> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => return Ok(false),
        Some("replace") => {
            let kept = patch.iter().filter(|(k, _)| *k != "$patch").map(|(k, v)| (k.clone(), v.clone()));
            *target = Value::Object(kept.collect());
        }
        Some("delete") => *target = Value::Object(Map::new()),
        Some(other) => return Err(PatchError::Directive(other.into())),
    }
    Ok(true)
}

/// An order may come alone, for a list whose items did not change.
fn orders_alone(
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    path: &mut Vec<String>,
    strategy: &dyn MergeStrategy,
) {
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
            let mut present: HashSet<String> = list.iter().map(Value::to_string).collect();
            for item in patch {
                if present.insert(item.to_string()) {
                    list.push(item.clone());
                }
            }
        }
        ListMerge::ByKey(ref key) => merge_by_key(list, patch, key, path, strategy)?,
    }
    reorder(list, order.map_or(patch, Vec::as_slice), &before, &merge);
    Ok(())
}

/// Merges items into a list whose items are told apart by `key`.
fn merge_by_key(
    list: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
    path: &mut Vec<String>,
    strategy: &dyn MergeStrategy,
) -> Result<(), PatchError> {
    // Where each item is. Removed items leave a hole until the end, so that places stay.
    let mut held: Vec<Option<Value>> = std::mem::take(list).into_iter().map(Some).collect();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (i, item) in held.iter().enumerate() {
        if let Some(id) = item.as_ref().and_then(|item| item.get(key)) {
            places.entry(id.to_string()).or_insert(i);
        }
    }
    for item in patch {
        let id = item.get(key).ok_or_else(|| PatchError::MissingMergeKey(item.clone(), key.into()))?.to_string();
        let place = places.get(&id).copied();
        if item.get("$patch").and_then(Value::as_str) == Some("delete") {
            if let Some(place) = place {
                held[place] = None;
                places.remove(&id);
            }
            continue;
        }
        match place.and_then(|place| held[place].as_mut()) {
            Some(found) => {
                if let Value::Object(inner) = item {
                    merge_object(found, inner, path, strategy)?;
                }
            }
            None => {
                // Merged into nothing, so that directives inside don't stay in the object.
                let mut fresh = Value::Null;
                match item {
                    Value::Object(inner) => merge_object(&mut fresh, inner, path, strategy)?,
                    other => fresh = other.clone(),
                }
                places.insert(id, held.len());
                held.push(Some(fresh));
            }
        }
    }
    list.extend(held.into_iter().flatten());
    Ok(())
}

/// Puts the items that `order` names into its order, between those that it doesn't name, which stay in the order of
/// `before`: an item that was in front of another there stays so, and what is new comes first.
fn reorder(list: &mut Vec<Value>, order: &[Value], before: &[Value], merge: &ListMerge) {
    let id = |item: &Value| match merge {
        ListMerge::ByKey(key) => item.get(key).map(Value::to_string),
        _ => Some(item.to_string()),
    };
    let places = |among: &[Value]| {
        let mut places: HashMap<String, usize> = HashMap::new();
        for (i, item) in among.iter().enumerate() {
            if let Some(id) = id(item) {
                places.entry(id).or_insert(i);
            }
        }
        places
    };
    let (ordered, earlier) = (places(order), places(before));
    /// An item with its places in the order and in the list as it was.
    type Placed = (Option<usize>, Option<usize>, Value);
    let placed = |item: Value| -> Placed {
        let id = id(&item);
        let place = |among: &HashMap<String, usize>| id.as_ref().and_then(|id| among.get(id)).copied();
        (place(&ordered), place(&earlier), item)
    };
    let (mut named, mut others): (Vec<Placed>, Vec<Placed>) =
        std::mem::take(list).into_iter().map(placed).partition(|(order, ..)| order.is_some());
    named.sort_by_key(|(order, ..)| *order);
    others.sort_by_key(|(_, before, _)| *before);
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (others.peek(), named.peek()) {
            (Some((_, other, _)), Some((_, name, _))) => match (other, name) {
                (Some(a), Some(b)) if a < b => others.next(),
                _ => named.next(),
            },
            (Some(_), None) => others.next(),
            (None, _) => named.next(),
        };
        let Some((.., next)) = next else { return };
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
    fn merge_patches_replace_remove_and_merge() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 1});
        merge_patch(&mut object, &json!({"a": {"b": null, "x": {"y": null, "z": 1}}, "d": [3], "e": {"f": 1}}));
        assert_eq!(object, json!({"a": {"c": 2, "x": {"z": 1}}, "d": [3], "e": {"f": 1}}));
    }

    #[test]
    fn long_lists_are_merged_in_no_time() {
        let list = |from: u32, to: u32| (from..to).map(|n| json!({"name": format!("n{n}")})).collect::<Vec<_>>();
        let mut got = json!({"containers": list(0, 40_000)});
        strategic_merge(&mut got, &json!({"containers": list(20_000, 60_000)}), &Containers).unwrap();
        assert_eq!(got["containers"].as_array().map(Vec::len), Some(60_000));
        // Each with each would be ten thousand million comparisons.
        let texts = |of: &str| -> Vec<String> { (0..100_000).map(|n| format!("{of}{n}")).collect() };
        let data: Map<String, Value> = texts("k").into_iter().map(|key| (key, Value::Null)).collect();
        let mut got = json!({"data": data, "finalizers": texts("f")});
        let patch = json!({"data": {"$retainKeys": texts("x")}, "$deleteFromPrimitiveList/finalizers": texts("y")});
        strategic_merge(&mut got, &patch, &Containers).unwrap();
        assert_eq!(got["data"], json!({}));
        assert_eq!(got["finalizers"].as_array().map(Vec::len), Some(100_000));
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
