//! The annotation in which `kubectl apply` keeps what it applied last. Who goes over to `kubectl apply --server-side`, and perhaps back,
//! finds it in step with what was applied (upstream's `lastAppliedManager` and `lastAppliedUpdater`). Another field manager than kubectl's
//! own leaves it alone.

use api::Kind;
use api::managed::{Difference, Typed};
use apimachinery::{FieldSet, ObjectExt as _};
use serde_json::Value;

use super::FieldManager;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl";
/// All annotations of an object together, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

fn kept(object: &Value) -> Option<&str> {
    object.at(&["metadata", "annotations", ANNOTATION]).as_str().filter(|text| !text.is_empty())
}

/// The fields that the client applied before and that nobody has changed since: they are no conflict, whoever they belong to.
pub(super) fn fields(of: &Typed, kind: &Kind, writer: &FieldManager, live: &Value) -> FieldSet {
    let none = FieldSet::default();
    let Some(text) = kept(live).filter(|_| writer.manager == MANAGER) else { return none };
    let Ok(last) = serde_json::from_str::<Value>(text) else { return none };
    if last["apiVersion"] != kind.api_version() || !of.faults(&last).is_empty() {
        return none;
    }
    let mut fields = of.fields(&last);
    let Difference { changed, removed } = of.compare(&last, live);
    fields.subtract(&changed);
    fields.subtract(&removed);
    fields
}

/// Writes into the annotation, if there is one, what was applied now.
pub(super) fn update(writer: &FieldManager, applied: &Value, object: &mut Value) {
    if writer.manager != MANAGER || kept(object).is_none() {
        return;
    }
    let mut config = applied.clone();
    match config["metadata"]["annotations"].as_object_mut() {
        Some(annotations) => drop(annotations.remove(ANNOTATION)),
        None => drop(config.meta_mut().remove("annotations")),
    }
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    annotations.insert(ANNOTATION.into(), format!("{config}\n").into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_LIMIT {
        annotations.remove(ANNOTATION);
    }
}
