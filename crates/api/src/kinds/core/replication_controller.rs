//! `ReplicationController`: the older ReplicaSet.

use apimachinery::{Cause, ObjectExt as _};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::GROUP;
use super::pod_template::{check_template, default_template};
use crate::columns::{Printer, pairs};
use crate::defaults::{default, set, spec};
use crate::kinds::apps::replica_set::{COLUMNS, row_of};
use crate::kinds::quota::count;
use crate::kinds::{ALL, Absent, Deletion, Dependents, Kind, SelectedField, Strategy, Subresource};
use crate::validate::field::{Causes, Field};
use crate::validate::not_negative;
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["rc"],
    categories: ALL,
    has_generation: true,
    selectable: &["status.replicas"],
    subresources: &[Subresource::Status, Subresource::Scale],
    strategy: Strategy {
        defaults,
        prepare_create: label_as_pods,
        validate,
        validate_status: Some(|object, _, causes| {
            let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            status::replicas(&status::of(object), &counts, causes);
        }),
        printer: Printer { columns: COLUMNS, row },
        usage: |_, usage| count(usage, KIND.plural),
        pod_template: |object| object.at(&["spec", "template"]),
        deletion: Deletion { dependents: Dependents::Orphaned(None), ..Deletion::PLAIN },
        selected: &[SelectedField::new("status.replicas", "status.replicas", Absent::Is("0"))],
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ReplicationController", "replicationcontrollers")
};

fn defaults(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default(spec, "replicas", || json!(1));
    default_template(spec.get_mut("template"));
    if let Some(labels) = template_labels(spec) {
        default(spec, "selector", || labels);
    }
    set(object.as_object_mut(), "status", json!({"replicas": 0}));
}

fn template_labels(spec: &Map<String, Value>) -> Option<Value> {
    spec.get("template")?.get("metadata")?.get("labels").cloned()
}

/// The object without labels has those of its pods; so it is for Jobs (upstream: `SetDefaults_ReplicationController`).
pub fn label_as_pods(object: &mut Value) {
    let template = object.at(&["spec", "template", "metadata", "labels"]);
    if template.as_object().is_some_and(|labels| !labels.is_empty()) && object.labels().is_empty() {
        let labels = template.clone();
        object.set_meta("labels", labels);
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    not_negative(object, &["spec", "replicas"], causes);
    not_negative(object, &["spec", "minReadySeconds"], causes);
    let selector = Field::new(object.at(&["spec", "selector"]), "spec.selector");
    if selector.require("", causes) {
        let labels = object.at(&["spec", "template", "metadata", "labels"]);
        if selector.entries().any(|(key, value)| labels.get(key) != Some(value.value)) {
            let why = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
        }
    }
    check_template(&object["spec"]["template"], "spec.template", &["Always"], &[], causes);
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    row_of(o, now, pairs(&o["spec"]["selector"]))
}
