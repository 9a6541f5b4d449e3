//! Admission policies and the conditions of webhooks: expressions are compiled when they are written, so that whoever
//! writes a wrong one hears of it.

use apimachinery::{Cause, ObjectExt as _};
use expressions::Expression;
use serde_json::Value;

use super::field::Field;
use super::{cluster, one_of};

/// What the expressions of admission may see; `params` and `variables` only those of policies.
pub const POLICY_VARIABLES: &[&str] =
    &["object", "oldObject", "request", "namespaceObject", "authorizer", "params", "variables"];
const CONDITION_VARIABLES: &[&str] = &["object", "oldObject", "request", "authorizer"];

/// The most conditions that a webhook or policy may have.
const MOST_CONDITIONS: usize = 64;

fn expression(of: &Value, field: &str, path: &str, variables: &[&str], causes: &mut Vec<Cause>) {
    let source = of.str_at(&[field]);
    if source.trim().is_empty() {
        causes.push(Cause::required(format!("{path}.{field}"), ""));
    } else if let Err(why) = Expression::compile(source, variables) {
        causes.push(Cause::invalid(format!("{path}.{field}"), &of[field], &format!("compilation failed: {why}")));
    }
}

fn conditions(of: &Value, path: &str, variables: &[&str], causes: &mut Vec<Cause>) {
    let listed = of.array_at(&["matchConditions"]);
    if listed.len() > MOST_CONDITIONS {
        let message = format!("Too many: {}: must have at most {MOST_CONDITIONS} items", listed.len());
        causes.push(Cause { reason: "FieldValueTooMany", field: format!("{path}matchConditions"), message });
    }
    let mut seen = Vec::new();
    for (i, condition) in listed.iter().enumerate() {
        let at = format!("{path}matchConditions[{i}]");
        let name = condition.str_at(&["name"]);
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if seen.contains(&name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &condition["name"]));
        }
        seen.push(name);
        expression(condition, "expression", &at, variables, causes);
    }
}

pub(super) fn admission(plural: &str, object: &Value, causes: &mut Vec<Cause>) {
    match plural {
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => {
            for (i, hook) in object.array_at(&["webhooks"]).iter().enumerate() {
                conditions(hook, &format!("webhooks[{i}]."), CONDITION_VARIABLES, causes);
                cluster::webhook(&Field::new(hook, format!("webhooks[{i}]")), causes);
            }
            Field::new(&object["webhooks"], "webhooks").unique("name", causes);
        }
        "validatingadmissionpolicies" => policy(object, "validations", causes),
        "mutatingadmissionpolicies" => policy(object, "mutations", causes),
        _ => binding(plural, object, causes),
    }
}

fn policy(object: &Value, does: &str, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    one_of(object, &["spec", "failurePolicy"], "spec.failurePolicy", &["Fail", "Ignore"], causes);
    if spec.array_at(&["matchConstraints", "resourceRules"]).is_empty() {
        causes.push(Cause::required("spec.matchConstraints.resourceRules", ""));
    }
    let constraints = Field::new(&spec["matchConstraints"], "spec.matchConstraints");
    for rule in ["resourceRules", "excludeResourceRules"].iter().flat_map(|list| constraints.at(list).items()) {
        cluster::admission_rule(&rule, causes);
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

fn binding(plural: &str, object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    if spec.str_at(&["policyName"]).is_empty() {
        causes.push(Cause::required("spec.policyName", ""));
    }
    if plural == "validatingadmissionpolicybindings" {
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
