//! Admission policies and their bindings.

use apimachinery::{Cause, ObjectExt as _, names};
use expressions::admission::{Known, Result as Wanted};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{any_scope, check_rule, compiled, conditions, expression, selection};
use crate::columns::{AGE, Column, NAME, Printer, age, name, number, text};
use crate::defaults::{child, default, items};
use crate::validate::field::{Causes, Field};

/// The most notes for the audit log that a policy may have, and the most bytes of the expression of one.
const MOST_NOTES: usize = 20;
const LONGEST_NOTE: usize = 5 * 1024;

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
    let spec = Field::new(&object["spec"], "spec");
    spec.at("failurePolicy").one_of(&["Fail", "Ignore"], causes);
    let params = spec.at("paramKind");
    if params.is_set() {
        param_kind(&params, causes);
    }
    let constraints = spec.at("matchConstraints");
    check_selection(&constraints, causes);
    constraints.at("resourceRules").require("", causes);
    let has_notes = !spec.at("auditAnnotations").is_empty();
    let validates = does == "validations";
    if spec.at(does).is_empty() && !(validates && has_notes) {
        let both = "validations or auditAnnotations must contain at least one item";
        if validates {
            causes.push(Cause::required("spec.validations", both));
            causes.push(Cause::required("spec.auditAnnotations", both));
        } else {
            causes.push(Cause::required(format!("spec.{does}"), &format!("{does} must contain at least one item")));
        }
    }
    let with_params = |known: Known<'static>| if params.is_set() { known.params(None) } else { known };
    let mut known = with_params(Known::of(None)).authorizer();
    // What a policy says of what it refused isn't for the eyes of everybody.
    let mut of_messages = with_params(Known::of(None));
    conditions(&spec, &known, causes);
    for variable in spec.at("variables").items() {
        let (name, source) = (variable.at("name"), variable.at("expression"));
        if name.text().trim().is_empty() {
            causes.push(Cause::required(&name.path, "name is not specified"));
        } else if !expressions::admission::is_name(name.text()) {
            name.invalid("name is not a valid CEL identifier", causes);
        }
        if validates {
            expression(&source, "expression is not specified", &known, Wanted::Anything, causes);
        } else {
            compiled(&source, "expression is not specified", POLICY_VARIABLES, causes);
        }
        // Its own mistakes are told already.
        let _ = known.compute(name.text(), source.text());
        of_messages = of_messages.with_computed(&known);
    }
    for validation in spec.at("validations").items() {
        check_validation(&validation, &known, &of_messages, causes);
    }
    notes(object, &spec.at("auditAnnotations"), &known, causes);
    for mutation in spec.at("mutations").items() {
        let field = match mutation.at("patchType").text() {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            _ => {
                mutation.at("patchType").must_be(&["ApplyConfiguration", "JSONPatch"], causes);
                continue;
            }
        };
        compiled(&mutation.at(field).at("expression"), "", POLICY_VARIABLES, causes);
    }
}

/// One validation of a policy: its expression, the message or the expression that makes it, and the reason.
fn check_validation(validation: &Field<'_>, known: &Known<'static>, of_messages: &Known<'static>, causes: &mut Causes) {
    let source = validation.at("expression");
    expression(&source, "expression is not specified", known, Wanted::Truth, causes);
    let (told, words) = (validation.at("messageExpression"), validation.at("message"));
    if !told.text().is_empty() {
        if told.text().trim().is_empty() {
            told.invalid("must be non-empty if specified", causes);
        } else {
            expression(&told, "", of_messages, Wanted::Text, causes);
        }
    }
    if !words.text().is_empty() && words.text().trim().is_empty() {
        words.invalid("message must be non-empty if specified", causes);
    } else if words.text().trim().contains(['\n', '\r']) {
        words.invalid("message must not contain line breaks", causes);
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    validation.at("reason").one_of(&reasons, causes);
}

/// Which kind the parameters of a policy are of.
fn param_kind(of: &Field<'_>, causes: &mut Causes) {
    let (version, kind) = (of.at("apiVersion"), of.at("kind"));
    if version.require("", causes) {
        let (group, name) = version.text().split_once('/').unwrap_or(("", version.text()));
        if name.contains('/') {
            version.invalid(&format!("unexpected GroupVersion string: {}", version.text()), causes);
        } else if name.is_empty() {
            version.invalid("version must be specified", causes);
        } else if let Err(why) = names::dns1035_label(name) {
            causes.push(Cause::invalid(&version.path, &json!(name), &why));
        }
        if let Err(why) = names::dns1123_subdomain(group)
            && !group.is_empty()
        {
            causes.push(Cause::invalid(&version.path, &json!(group), &why));
        }
    }
    if kind.require("", causes)
        && let Err(why) = names::dns1035_label(&kind.text().to_ascii_lowercase())
    {
        kind.invalid(&format!("may have mixed case, but should otherwise match: {why}"), causes);
    }
}

/// What a policy writes into the audit log.
fn notes(policy: &Value, listed: &Field<'_>, known: &Known<'_>, causes: &mut Causes) {
    if listed.items().count() > MOST_NOTES {
        listed.invalid(&format!("must not have more than {MOST_NOTES} auditAnnotations"), causes);
    }
    listed.unique("key", causes);
    for note in listed.items() {
        let (key, source) = (note.at("key"), note.at("valueExpression"));
        let whole = format!("{}/{}", policy.name(), key.text());
        if let Err(why) = names::qualified_name(&whole) {
            causes.push(Cause::invalid(&key.path, &json!(whole), &why));
        }
        if source.text().trim().len() > LONGEST_NOTE {
            causes.push(Cause::required(&source.path, &format!("must not exceed {LONGEST_NOTE} bytes in length")));
        } else {
            expression(&source, "valueExpression is not specified", known, Wanted::TextOrNull, causes);
        }
    }
}

/// Which requests a policy or a binding is about.
fn check_selection(of: &Field<'_>, causes: &mut Causes) {
    if !of.is_set() {
        return;
    }
    of.at("matchPolicy").one_of(&["Equivalent", "Exact"], causes);
    for selector in ["namespaceSelector", "objectSelector"] {
        of.at(selector).selector(causes);
    }
    for rule in ["resourceRules", "excludeResourceRules"].iter().flat_map(|list| of.at(list).items()) {
        let mut seen = Vec::new();
        for name in rule.at("resourceNames").items() {
            if seen.contains(&name.text()) {
                causes.push(Cause::duplicate(&name.path, name.value));
            }
            seen.push(name.text());
        }
        check_rule(&rule, causes);
    }
}

/// `more` is what is checked of one kind of bindings.
pub fn check_binding(object: &Value, more: fn(&Value, &mut Causes), causes: &mut Causes) {
    let spec = Field::new(&object["spec"], "spec");
    if spec.at("policyName").require("", causes) {
        spec.at("policyName").is(names::dns1123_subdomain, causes);
    }
    check_selection(&spec.at("matchResources"), causes);
    more(spec.value, causes);
    let reference = spec.at("paramRef");
    if !reference.is_set() {
        return;
    }
    let (name, selector) = (reference.at("name"), reference.at("selector"));
    if !name.is_empty() && selector.is_set() {
        for field in [&name, &selector] {
            field.forbid("name and selector are mutually exclusive", causes);
        }
    }
    if selector.is_set() {
        selector.selector(causes);
    } else if name.is_empty() {
        causes.push(Cause::required(&reference.path, "one of name or selector must be specified"));
    }
    if reference.at("parameterNotFoundAction").require("", causes) {
        reference.at("parameterNotFoundAction").one_of(&["Deny", "Allow"], causes);
    }
}

pub const VALIDATIONS: Printer = Printer {
    columns: &[NAME, number("Validations"), text("ParamKind"), AGE],
    row: |o, now| policy_row(o, "validations", now),
};
pub const MUTATIONS: Printer = Printer {
    columns: &[NAME, number("Mutations"), text("ParamKind"), AGE],
    row: |o, now| policy_row(o, "mutations", now),
};
pub const BINDINGS: Printer = Printer { columns: BINDING_COLUMNS, row: binding_row };

const BINDING_COLUMNS: &[Column] = &[NAME, text("PolicyName"), text("ParamRef"), AGE];

fn policy_row(o: &Value, does: &str, now: Timestamp) -> Vec<Value> {
    let params = match &o["spec"]["paramKind"] {
        Value::Null => "<unset>".to_string(),
        of => format!("{}/{}", of.str_at(&["apiVersion"]), of.str_at(&["kind"])),
    };
    vec![name(o), json!(o.array_at(&["spec", does]).len()), params.into(), age(o, now)]
}

fn binding_row(o: &Value, now: Timestamp) -> Vec<Value> {
    let of = &o["spec"]["paramRef"];
    let params = match (of.is_null(), of.str_at(&["namespace"])) {
        (true, _) => "<unset>".to_string(),
        (false, "") => of.str_at(&["name"]).into(),
        (false, namespace) => format!("{namespace}/{}", of.str_at(&["name"])),
    };
    vec![name(o), o.str_at(&["spec", "policyName"]).into(), params.into(), age(o, now)]
}
