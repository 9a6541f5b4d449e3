//! `ValidatingAdmissionPolicyBinding`: where a ValidatingAdmissionPolicy applies.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

use super::GROUP;
use super::policies::{check_binding, default_matching};
use crate::kinds::{API_EXTENSIONS, Kind, Strategy};
use crate::validate::field::Causes;

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    strategy: Strategy {
        defaults: default_matching,
        validate: |object, _, causes| check_binding(object, check_actions, causes),
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
};

fn check_actions(spec: &Value, causes: &mut Causes) {
    let actions = spec.strings_at(&["validationActions"]);
    if actions.is_empty() {
        causes.push(Cause::required("spec.validationActions", ""));
    }
    let allowed = ["Audit", "Deny", "Warn"];
    if let Some(unknown) = actions.iter().find(|a| !allowed.contains(a)) {
        causes.push(Cause::not_supported("spec.validationActions", &Value::from(*unknown), &allowed));
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                   API response and headers serves no purpose)";
        causes.push(Cause::invalid("spec.validationActions", &spec["validationActions"], why));
    }
}
