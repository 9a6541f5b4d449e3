//! `metadata`, which all kinds share.

use apimachinery::{Cause, ObjectExt as _, names};
use serde_json::{Value, json};

use super::field::too_long;

/// Names, labels, annotations, owners, and what an update may not change.
pub fn metadata(
    check_name: fn(&str) -> Result<(), String>,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) {
    let prefix = object.meta("generateName");
    if old.is_none()
        && !prefix.is_empty()
        && let Err(why) = check_name(&as_beginning(prefix))
    {
        causes.push(Cause::invalid("metadata.generateName", &json!(prefix), &why));
    }
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

/// The beginning of a name as a name: dashes at its end are followed by something (upstream's `maskTrailingDash`).
fn as_beginning(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_string(),
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
    let owners_path = format!("{path}.ownerReferences");
    let mut controller: Option<String> = None;
    for owner in metadata.array_at(&["ownerReferences"]) {
        for (field, what) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if owner.str_at(&[field]).is_empty() {
                let path = format!("{owners_path}.{field}");
                causes.push(Cause::invalid(path, &owner[field], &format!("{what} must not be empty")));
            }
        }
        // There are many of them, and they go by themselves.
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            causes.push(Cause::invalid(&owners_path, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner["controller"] == true {
            let name = format!("{}/{}", owner.str_at(&["kind"]), owner.str_at(&["name"]));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    causes.push(Cause::invalid(&owners_path, &metadata["ownerReferences"], &why));
                }
                None => controller = Some(name),
            }
        }
    }
    let finalizers = metadata.strings_at(&["finalizers"]);
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid(format!("{path}.finalizers"), &metadata["finalizers"], why));
    }
    for finalizer in finalizers {
        if let Err(why) = names::qualified_name(finalizer) {
            causes.push(Cause::invalid(format!("{path}.finalizers"), &json!(finalizer), &why));
        }
    }
}

/// Whether a finalizer is one of Kubernetes' own or says whose it is.
fn is_qualified(finalizer: &str) -> bool {
    finalizer.contains('/') || ["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer)
}

/// The finalizers of a new object of a built-in kind say whose they are (upstream's `validateKubeFinalizerName`).
pub fn finalizers_are_qualified(object: &Value, causes: &mut Vec<Cause>) {
    for (i, finalizer) in object.strings_at(&["metadata", "finalizers"]).into_iter().enumerate() {
        if !is_qualified(finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(format!("metadata.finalizers[{i}]"), &json!(finalizer), why));
        }
    }
}

/// What the writer of a custom object is warned of that gets a finalizer which doesn't say whose it is.
pub fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let before = old.map(|old| old.strings_at(&["metadata", "finalizers"])).unwrap_or_default();
    let new =
        object.strings_at(&["metadata", "finalizers"]).into_iter().filter(|f| !before.contains(f) && !is_qualified(f));
    let warn = |finalizer: &str| {
        let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
        format!(
            "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other \
             finalizer writers"
        )
    };
    new.map(warn).collect()
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
    for key in map.as_object().into_iter().flat_map(|map| map.keys()) {
        if let Err(why) = names::qualified_name(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid(field, &json!(key), &why));
        }
    }
    annotations_size(map, field, causes);
}

/// How large annotations may be together, those of objects and those for signers of certificates.
pub fn annotations_size(map: &Value, field: &str, causes: &mut Vec<Cause>) {
    let entries = map.as_object().into_iter().flatten();
    let size: usize = entries.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_LIMIT {
        causes.push(too_long(field, ANNOTATIONS_LIMIT));
    }
}
