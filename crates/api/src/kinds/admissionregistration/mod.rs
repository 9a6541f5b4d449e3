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

use apimachinery::{Cause, names};
use expressions::Expression;
use expressions::admission::{Known, Result as Wanted};
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

/// Checks an expression of which only the names of its variables are known; `missing` is said when there is none.
fn compiled(of: &Field<'_>, missing: &str, variables: &[&str], causes: &mut Causes) {
    if of.text().trim().is_empty() {
        causes.push(Cause::required(&of.path, missing));
    } else if let Err(why) = Expression::compile(of.text(), variables) {
        of.invalid(&format!("compilation failed: {why}"), causes);
    }
}

/// Checks an expression and its types; `missing` is said when there is none.
fn expression(of: &Field<'_>, missing: &str, known: &Known<'_>, wanted: Wanted, causes: &mut Causes) {
    let source = of.text();
    if source.trim().is_empty() {
        causes.push(Cause::required(&of.path, missing));
    } else if let Err(why) = known.check(source, Wanted::Anything) {
        of.invalid(&format!("compilation failed: {why}"), causes);
    } else if let Err(why) = known.check(source, wanted) {
        of.invalid(&why, causes);
    } else {
        compiled(of, missing, POLICY_VARIABLES, causes);
    }
}

fn conditions(of: &Field<'_>, known: &Known<'_>, causes: &mut Causes) {
    let listed = of.at("matchConditions");
    let count = listed.value.as_array().map_or(0, Vec::len);
    if count > MOST_CONDITIONS {
        let message = format!("Too many: {count}: must have at most {MOST_CONDITIONS} items");
        causes.push(Cause { reason: "FieldValueTooMany", field: listed.path.clone(), message });
    }
    listed.unique("name", causes);
    for condition in listed.items() {
        if condition.at("name").require("", causes) {
            condition.at("name").is(names::qualified_name, causes);
        }
        expression(&condition.at("expression"), "", known, Wanted::Truth, causes);
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
