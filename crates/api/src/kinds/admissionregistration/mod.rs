//! Kinds of `admissionregistration.k8s.io`: what policies, their bindings and webhooks have in common.
//!
//! Expressions are compiled when they are written, so that whoever writes a wrong one hears of it.

pub(crate) mod mutating_admission_policy;
pub(crate) mod mutating_admission_policy_binding;
pub(crate) mod mutating_webhook_configuration;
pub(crate) mod validating_admission_policy;
pub(crate) mod validating_admission_policy_binding;
pub(crate) mod validating_webhook_configuration;

mod policies;
mod webhooks;

pub use policies::POLICY_VARIABLES;

use apimachinery::{Cause, ObjectExt as _};
use expressions::Expression;
use serde_json::{Map, Value, json};

use crate::defaults::{default, items};
use crate::validate::field::{Causes, Field};

const GROUP: &str = "admissionregistration.k8s.io";

table! {
    MUTATING_ADMISSION_POLICIES = mutating_admission_policy;
    MUTATING_ADMISSION_POLICY_BINDINGS = mutating_admission_policy_binding;
    MUTATING_WEBHOOK_CONFIGURATIONS = mutating_webhook_configuration;
    VALIDATING_WEBHOOK_CONFIGURATIONS = validating_webhook_configuration;
    VALIDATING_ADMISSION_POLICIES = validating_admission_policy;
    VALIDATING_ADMISSION_POLICY_BINDINGS = validating_admission_policy_binding;
}

/// The most conditions that a webhook or policy may have.
const MOST_CONDITIONS: usize = 64;

fn expression(of: &Value, field: &str, path: &str, variables: &[&str], causes: &mut Causes) {
    let source = of.str_at(&[field]);
    if source.trim().is_empty() {
        causes.push(Cause::required(format!("{path}.{field}"), ""));
    } else if let Err(why) = Expression::compile(source, variables) {
        causes.push(Cause::invalid(format!("{path}.{field}"), &of[field], &format!("compilation failed: {why}")));
    }
}

fn conditions(of: &Value, path: &str, variables: &[&str], causes: &mut Causes) {
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

/// `admissionregistration.k8s.io/v1` `RuleWithOperations`.
fn check_rule(rule: &Field<'_>, causes: &mut Causes) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        rule.at(field).require("", causes);
    }
    let operations = rule.at("operations");
    for operation in operations.items() {
        operation.one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], causes);
    }
    for field in ["operations", "apiGroups", "apiVersions"] {
        let list = rule.at(field);
        if list.items().any(|item| item.text() == "*") && list.value.as_array().map_or(0, Vec::len) > 1 {
            list.invalid("if '*' is present, must not specify other values", causes);
        }
    }
    rule.at("scope").one_of(&["*", "Cluster", "Namespaced"], causes);
}

/// What webhooks and policies have in common in how they choose requests.
fn selection(of: &mut Map<String, Value>, rules: &str) {
    default(of, "matchPolicy", || json!("Equivalent"));
    default(of, "namespaceSelector", || json!({}));
    default(of, "objectSelector", || json!({}));
    items(of, rules).for_each(any_scope);
}

fn any_scope(rule: &mut Map<String, Value>) {
    default(rule, "scope", || json!("*"));
}
