//! Statuses are written here, and only when they have changed.

use informer::Metadata;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Context, Result};

/// Writes the status of an object if it differs from the one that the object has; a field that is `None` now is removed. Returns the object's new
/// `resourceVersion`; none if nothing was written, also because the object is gone.
///
/// # Errors
/// The API's answer to the patch, but for 404. It is 409 when another object took the name meanwhile.
pub async fn patch_status_if_changed<K, S>(
    context: &Context,
    object: &K,
    present: Option<&S>,
    wanted: &S,
) -> Result<Option<String>>
where
    K: Resource<DynamicType = ()>,
    S: Serialize,
{
    patch(context, object, present, wanted, json!({"uid": object.meta().uid})).await
}

/// The same, unless the object has changed since it was read: then the answer is 409, and its next reconciliation decides.
///
/// # Errors
/// The API's answer to the patch, but for 404.
pub async fn patch_status_of_version<K, S>(
    context: &Context,
    object: &K,
    present: Option<&S>,
    wanted: &S,
) -> Result<Option<String>>
where
    K: Resource<DynamicType = ()>,
    S: Serialize,
{
    let meta = json!({"uid": object.meta().uid, "resourceVersion": object.meta().resource_version});
    patch(context, object, present, wanted, meta).await
}

async fn patch<K, S>(
    context: &Context,
    object: &K,
    present: Option<&S>,
    wanted: &S,
    metadata: Value,
) -> Result<Option<String>>
where
    K: Resource<DynamicType = ()>,
    S: Serialize,
{
    let json = |status: Option<&S>| serde_json::to_value(status).map_err(kube::Error::SerdeError);
    let Some(change) = change(&json(present)?, &json(Some(wanted))?) else { return Ok(None) };
    let patch = Patch::Merge(json!({"metadata": metadata, "status": change}));
    let request = Request::new(K::url_path(&(), object.meta().namespace.as_deref()));
    let request = request.patch_subresource("status", &object.name_any(), &PatchParams::default(), &patch);
    let request = request.map_err(kube::Error::BuildRequest)?;
    match context.client.request::<Metadata>(request).await {
        Ok(written) => Ok(written.metadata.resource_version),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The merge patch (RFC 7396) from one status to another; none if they say the same.
fn change(old: &Value, new: &Value) -> Option<Value> {
    (!is_same(old, new)).then(|| merge_patch(old, new))
}

/// What Go leaves out of JSON (`omitempty`).
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

/// Whether two values say the same: what is empty is as good as what isn't there. The API leaves it out, or keeps it, by the field's type.
fn is_same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .keys()
            .chain(new.keys())
            .all(|key| is_same(old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null))),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).all(|(old, new)| is_same(old, new))
        }
        _ => old == new || (is_empty(old) && is_empty(new)),
    }
}

fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch = Map::new();
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
        patch.insert(key.clone(), old.get(key).map_or_else(|| value.clone(), |old| merge_patch(old, value)));
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_when_it_says_something_else() {
        for (old, new, want) in [
            (json!(null), json!({"replicas": 0}), None),
            (json!({"a": 1}), json!({"a": 1, "b": 0, "c": "", "d": [], "e": {"f": null}, "g": false}), None),
            (json!({"b": 0, "a": 1}), json!({"a": 1}), None),
            (json!({"list": [{"type": "A", "message": ""}]}), json!({"list": [{"type": "A"}]}), None),
            (json!(null), json!({"replicas": 0, "ready": 1}), Some(json!({"replicas": 0, "ready": 1}))),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": 1, "b": 2}), json!({"a": 1, "b": 0}), Some(json!({"b": 0}))),
            (
                json!({"used": {"pods": "1", "x": "2"}}),
                json!({"used": {"pods": "3"}}),
                Some(json!({"used": {"pods": "3", "x": null}})),
            ),
            (json!({"list": [1, 2]}), json!({"list": [1]}), Some(json!({"list": [1]}))),
            (json!({"a": {"b": 1}}), json!({"a": null}), Some(json!({"a": null}))),
        ] {
            assert_eq!(change(&old, &new), want, "{old} {new}");
        }
    }
}
