//! `PodTemplate`: a template of Pods, also of those that workloads have.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Value, json};

use super::{GROUP, pod};
use crate::columns::{NAME, Printer, containers, name, pairs, text};
use crate::defaults::{child, default};
use crate::kinds::{Deletion, Kind, Strategy};
use crate::validate::field::Causes;
use crate::validate::meta;

pub static KIND: Kind = Kind {
    strategy: Strategy {
        defaults: |object| default_template(object.get_mut("template")),
        validate,
        printer: Printer {
            columns: &[NAME, text("Containers"), text("Images"), text("Pod Labels")],
            row: |o, _| {
                let (names, images) = containers(&o["template"]);
                vec![name(o), names, images, pairs(o.at(&["template", "metadata", "labels"]))]
            },
        },
        pod_template: |object| &object["template"],
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "PodTemplate", "podtemplates")
};

/// A pod template's `spec` gets a pod's defaults.
pub fn default_template(template: Option<&mut Value>) {
    let Some(map) = template.and_then(Value::as_object_mut) else { return };
    default(map, "metadata", || json!({}));
    if let Some(spec) = child(map, "spec") {
        pod::default_spec(spec);
    }
}

fn validate(object: &Value, _: Option<&Value>, causes: &mut Causes) {
    let restart = ["Always", "Never", "OnFailure"];
    check_template(&object["template"], "template", &restart, &[], causes);
}

/// The template at `path` of an object. `restart` are the policies that its pods may have, `claims` the volumes that come from
/// templates of claims.
pub fn check_template(template: &Value, path: &str, restart: &[&str], claims: &[&str], causes: &mut Causes) {
    if template.is_null() {
        causes.push(Cause::required(path, ""));
        return;
    }
    meta::labels(&template["metadata"]["labels"], &format!("{path}.metadata.labels"), causes);
    pod::check_spec(&template["spec"], &format!("{path}.spec"), claims, causes);
    let policy = &template["spec"]["restartPolicy"];
    if !policy.as_str().is_some_and(|p| restart.contains(&p)) {
        causes.push(Cause::not_supported(format!("{path}.spec.restartPolicy"), policy, restart));
    }
}
