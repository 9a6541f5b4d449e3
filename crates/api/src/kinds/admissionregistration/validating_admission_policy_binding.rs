//! `ValidatingAdmissionPolicyBinding`: where a ValidatingAdmissionPolicy applies.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

use super::GROUP;
use super::policies::{BINDINGS, check_binding, default_matching};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};
use crate::validate::field::Causes;

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        updates_name_version: true,
        printer: BINDINGS,
        defaults: default_matching,
        validate: |object, _, causes| check_binding(object, check_actions, causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

fn check_actions(spec: &Value, causes: &mut Causes) {
    let actions = spec.strings_at(&["validationActions"]);
    if actions.is_empty() {
        causes.push(Cause::required("spec.validationActions", "at least one validation action is required"));
    }
    for (i, action) in actions.iter().enumerate() {
        let (path, value) = (format!("spec.validationActions[{i}]"), Value::from(*action));
        if !ACTIONS.contains(action) {
            causes.push(Cause::not_supported(&path, &value, ACTIONS));
        }
        if actions[..i].contains(action) {
            causes.push(Cause::duplicate(path, &value));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                   API response and headers serves no purpose)";
        causes.push(Cause::invalid("spec.validationActions", &spec["validationActions"], why));
    }
}
