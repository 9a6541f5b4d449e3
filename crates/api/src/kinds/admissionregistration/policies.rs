//! Admission policies and their bindings.

use apimachinery::{Cause, ObjectExt as _};
use serde_json::{Value, json};

use super::{any_scope, check_rule, conditions, expression, selection};
use crate::defaults::{child, default, items};
use crate::validate::field::{Causes, Field};
use crate::validate::one_of;

/// What the expressions of admission may see; `params` and `variables` only those of policies.
pub const POLICY_VARIABLES: &[&str] =
    &["object", "oldObject", "request", "namespaceObject", "authorizer", "params", "variables"];

pub fn default_policy(object: &mut Value) {
    default_matching(object);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        default(spec, "failurePolicy", || json!("Fail"));
    }
}

pub fn default_matching(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for part in ["matchConstraints", "matchResources"] {
        if let Some(resources) = child(spec, part) {
            selection(resources, "resourceRules");
            items(resources, "excludeResourceRules").for_each(any_scope);
        }
    }
}

/// `does` is the list of what the policy does.
pub fn check_policy(object: &Value, does: &str, causes: &mut Causes) {
    let spec = &object["spec"];
    one_of(object, &["spec", "failurePolicy"], "spec.failurePolicy", &["Fail", "Ignore"], causes);
    if spec.array_at(&["matchConstraints", "resourceRules"]).is_empty() {
        causes.push(Cause::required("spec.matchConstraints.resourceRules", ""));
    }
    let constraints = Field::new(&spec["matchConstraints"], "spec.matchConstraints");
    for rule in ["resourceRules", "excludeResourceRules"].iter().flat_map(|list| constraints.at(list).items()) {
        check_rule(&rule, causes);
    }
    let has_notes = !spec.array_at(&["auditAnnotations"]).is_empty();
    if spec.array_at(&[does]).is_empty() && !(does == "validations" && has_notes) {
        causes.push(Cause::required(format!("spec.{does}"), &format!("{does} must contain at least one item")));
    }
    conditions(spec, "spec.", POLICY_VARIABLES, causes);
    for (i, variable) in spec.array_at(&["variables"]).iter().enumerate() {
        let at = format!("spec.variables[{i}]");
        if variable.str_at(&["name"]).is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        expression(variable, "expression", &at, POLICY_VARIABLES, causes);
    }
    for (i, validation) in spec.array_at(&["validations"]).iter().enumerate() {
        let at = format!("spec.validations[{i}]");
        expression(validation, "expression", &at, POLICY_VARIABLES, causes);
        if !validation.str_at(&["messageExpression"]).is_empty() {
            expression(validation, "messageExpression", &at, POLICY_VARIABLES, causes);
        }
    }
    for (i, mutation) in spec.array_at(&["mutations"]).iter().enumerate() {
        let at = format!("spec.mutations[{i}]");
        let field = match mutation.str_at(&["patchType"]) {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            _ => {
                let allowed = ["ApplyConfiguration", "JSONPatch"];
                causes.push(Cause::not_supported(format!("{at}.patchType"), &mutation["patchType"], &allowed));
                continue;
            }
        };
        expression(&mutation[field], "expression", &format!("{at}.{field}"), POLICY_VARIABLES, causes);
    }
}

/// `more` is what is checked of one kind of bindings.
pub fn check_binding(object: &Value, more: fn(&Value, &mut Causes), causes: &mut Causes) {
    let spec = &object["spec"];
    if spec.str_at(&["policyName"]).is_empty() {
        causes.push(Cause::required("spec.policyName", ""));
    }
    more(spec, causes);
    let reference = &spec["paramRef"];
    if reference.is_object() {
        if reference.str_at(&["name"]).is_empty() && !reference["selector"].is_object() {
            causes.push(Cause::required("spec.paramRef", "one of name or selector must be specified"));
        }
        if reference.str_at(&["parameterNotFoundAction"]).is_empty() {
            causes.push(Cause::required("spec.paramRef.parameterNotFoundAction", ""));
        }
    }
}
