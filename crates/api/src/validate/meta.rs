//! `metadata`, which all kinds share.

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Value, json};

/// Names, labels, annotations, owners, and what an update may not change.
pub fn metadata(
    check_name: fn(&str) -> Result<(), String>,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) {
    let name = object.name();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if old.is_none()
        && let Err(why) = check_name(name)
    {
        causes.push(Cause::invalid("metadata.name", &json!(name), &why));
    }
    labels(&object["metadata"]["labels"], "metadata.labels", causes);
    annotations(&object["metadata"]["annotations"], "metadata.annotations", causes);
    owners_and_finalizers(&object["metadata"], "metadata", causes);
    if let Some(old) = old {
        unchanged(object, old, causes);
    }
}

/// The metadata of a resource within a custom resource, which needs no name.
pub fn embedded(metadata: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(name) = metadata["name"].as_str()
        && let Err(why) = names::path_segment(name)
    {
        causes.push(Cause::invalid(format!("{path}.name"), &metadata["name"], &why));
    }
    labels(&metadata["labels"], &format!("{path}.labels"), causes);
    annotations(&metadata["annotations"], &format!("{path}.annotations"), causes);
    owners_and_finalizers(metadata, path, causes);
}

fn owners_and_finalizers(metadata: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, owner) in metadata.array_at(&["ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.str_at(&[field]).is_empty() {
                let path = format!("{path}.ownerReferences[{i}].{field}");
                causes.push(Cause::invalid(path, &owner[field], &format!("{field} must not be empty")));
            }
        }
    }
    for finalizer in metadata.strings_at(&["finalizers"]) {
        if let Err(why) = names::qualified_name(finalizer) {
            causes.push(Cause::invalid(format!("{path}.finalizers"), &json!(finalizer), &why));
        }
    }
}

fn unchanged(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if object.meta(field) != old.meta(field) {
            let path = format!("metadata.{field}");
            causes.push(Cause::invalid(path, &json!(object.meta(field)), super::IMMUTABLE));
        }
    }
    if old.is_deleting() {
        let before = old.strings_at(&["metadata", "finalizers"]);
        let added: Vec<_> =
            object.strings_at(&["metadata", "finalizers"]).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
}

/// A map of labels.
pub fn labels(map: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in map.as_object().into_iter().flatten() {
        if let Err(why) = names::qualified_name(key) {
            causes.push(Cause::invalid(field, &json!(key), &why));
        }
        if let Err(why) = names::label_value(value.as_str().unwrap_or("")) {
            causes.push(Cause::invalid(field, value, &why));
        }
    }
}

const ANNOTATIONS_LIMIT: usize = 256 << 10;

fn annotations(map: &Value, field: &str, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        if let Err(why) = names::qualified_name(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid(field, &json!(key), &why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        let message = format!("Too long: may not be more than {ANNOTATIONS_LIMIT} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", field: field.into(), message });
    }
}
