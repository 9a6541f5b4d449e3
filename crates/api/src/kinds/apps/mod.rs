//! Kinds of `apps`.

pub(crate) mod controller_revision;
pub(crate) mod daemon_set;
pub(crate) mod deployment;
pub(crate) mod replica_set;
pub(crate) mod stateful_set;

use apimachinery::{Cause, LabelSelector, ObjectExt as _};
use serde_json::Value;

use super::pod_template::check_template;
use crate::validate::field::Causes;
use crate::validate::{immutable, not_negative};

const GROUP: &str = "apps";

table! {
    CONTROLLER_REVISIONS = controller_revision;
    DAEMON_SETS = daemon_set;
    DEPLOYMENTS = deployment;
    REPLICA_SETS = replica_set;
    STATEFUL_SETS = stateful_set;
}

/// What is checked of all workloads of the group. `claims` are volumes that come from templates of claims.
fn check_workload(object: &Value, old: Option<&Value>, claims: &[&str], causes: &mut Causes) {
    let is_set = object["kind"] == "StatefulSet";
    check_selector(object, causes);
    check_template(&object["spec"]["template"], "spec.template", &["Always"], claims, causes);
    not_negative(object, &["spec", "replicas"], causes);
    not_negative(object, &["spec", "minReadySeconds"], causes);
    // A StatefulSet's is one of many fields that don't change, and told with them.
    if !is_set {
        immutable(object, old, &["spec", "selector"], "spec.selector", causes);
    }
}

/// The selector must select something, and the template's labels must be among it.
fn check_selector(object: &Value, causes: &mut Causes) {
    let value = &object["spec"]["selector"];
    if value.is_null() {
        causes.push(Cause::required("spec.selector", ""));
        return;
    }
    match LabelSelector::from_json(value) {
        Err(e) => causes.push(Cause::invalid("spec.selector", value, &e.to_string())),
        Ok(s) if s.is_empty() => {
            // Of a ReplicaSet upstream says so, too.
            let kind = match object.str_at(&["kind"]) {
                "StatefulSet" => "statefulset",
                "DaemonSet" => "daemonset",
                _ => "deployment",
            };
            causes.push(Cause::invalid("spec.selector", value, &format!("empty selector is invalid for {kind}")));
        }
        Ok(s) => {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            if !s.matches(|k| labels.get(k).and_then(Value::as_str)) {
                let detail = "`selector` does not match template `labels`";
                causes.push(Cause::invalid("spec.template.metadata.labels", labels, detail));
            }
        }
    }
}

/// Whether a number or percentage is none.
fn is_zero(value: &Value) -> bool {
    value == 0 || value == "0" || value == "0%"
}

/// The template of a workload's pods.
fn template(object: &Value) -> &Value {
    object.at(&["spec", "template"])
}
