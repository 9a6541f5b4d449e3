//! `ResourceQuota`: how much of everything a namespace may hold.

pub mod usage;

use apimachinery::{ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::columns::{AGE, NAME, Printer, age, name, text};
use crate::kinds::{Deletion, Kind, Strategy, Subresource};
use crate::validate::field::{Causes, Field, invalid_text};
use crate::validate::status;

pub static KIND: Kind = Kind {
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    strategy: Strategy {
        validate,
        validate_status: Some(validate_status),
        printer: Printer { columns: &[NAME, text("Request"), text("Limit"), AGE], row },
        usage: |_, usage| usage::count(usage, KIND.plural),
        deletion: Deletion { returns_object: true, ..Deletion::PLAIN },
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ResourceQuota", "resourcequotas")
};

/// Resources of quotas that are numbers of objects (upstream: `standardQuotaResources`).
pub const OBJECT_COUNTS: [&str; 9] = [
    "pods",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Whether a quota of that scope may bound a resource: scopes of pods choose among pods, that of volumes among claims (upstream's
/// `IsResourceQuotaScopeValidForResource`). Of resources that aren't of every cluster nobody knows what they are about.
fn scope_fits(scope: &str, resource: &str) -> bool {
    const OF_PODS: [&str; 7] =
        ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory", "pods"];
    if resource.contains('/') {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            OF_PODS.contains(&resource)
        }
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        _ => true,
    }
}

/// The scopes that a quota names, at `field`: each is known, fits all that is bounded, and none contradicts another.
fn check_scopes(scopes: &[&str], field: &Field<'_>, hard: &Field<'_>, causes: &mut Causes) {
    for scope in scopes {
        for _ in hard.entries().filter(|(name, _)| !scope_fits(scope, name)) {
            field.invalid("unsupported scope applied to resource", causes);
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            field.invalid("conflicting scopes", causes);
        }
    }
}

/// What a quota with a selector of scopes says of one of them.
fn check_selected(expression: &Field<'_>, path: &str, causes: &mut Causes) {
    let at = |field: &str| Field::new(expression.at(field).value, format!("{path}.{field}"));
    let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
    if !SCOPES.contains(&scope.text()) {
        scope.invalid("unsupported scope", causes);
    }
    if !matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass")
        && SCOPES.contains(&scope.text())
        && operator.text() != "Exists"
    {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                   ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        operator.invalid(why, causes);
    }
    match operator.text() {
        "In" | "NotIn" => {
            values.require("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector", causes);
        }
        "Exists" | "DoesNotExist" if values.is_empty() => {}
        "Exists" | "DoesNotExist" => {
            values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector", causes);
        }
        _ => operator.invalid("not a valid selector operator", causes),
    }
}

fn validate_status(object: &Value, _: &Value, causes: &mut Causes) {
    let status = status::of(object);
    amounts(&status.at("hard"), causes);
    amounts(&status.at("used"), causes);
}

/// The names and amounts of what a quota bounds.
fn amounts(all: &Field<'_>, causes: &mut Causes) {
    for (name, amount) in all.entries() {
        if let Err(why) = names::qualified_name(name) {
            causes.push(invalid_text(&amount.path, name, &why));
        } else if !name.contains('/') {
            let standard = super::pod::is_standard_resource(name);
            if !standard {
                causes.push(invalid_text(&amount.path, name, "must be a standard resource type or fully qualified"));
            }
            if !standard || name == "storage" {
                causes.push(invalid_text(&amount.path, name, "must be a standard resource for quotas"));
            }
        }
        let counted = name.starts_with("count/") || OBJECT_COUNTS.contains(&name);
        if amount.quantity(causes).is_some_and(|amount| counted && amount.milli() % 1000 != 0) {
            amount.invalid("must be an integer", causes);
        }
    }
}

fn validate(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let object = Field::root(object);
    let spec = object.at("spec");
    amounts(&spec.at("hard"), causes);
    let (scopes, expressions) = (spec.at("scopes"), spec.at("scopeSelector").at("matchExpressions"));
    let named = scopes.texts();
    for _ in named.iter().filter(|scope| !SCOPES.contains(scope)) {
        scopes.invalid("unsupported scope", causes);
    }
    check_scopes(&named, &scopes, &spec.at("hard"), causes);
    for expression in expressions.items() {
        check_selected(&expression, &expressions.path, causes);
    }
    let selected: Vec<&str> = expressions.items().map(|e| e.at("scopeName").text()).collect();
    check_scopes(&selected, &expressions, &spec.at("hard"), causes);
    scopes.immutable(old, causes);
    spec.at("scopeSelector").immutable(old, causes);
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let part = |limits: bool| {
        let hard = o["status"]["hard"].as_object().into_iter().flatten();
        let list: Vec<String> = hard
            .filter(|(k, _)| k.starts_with("limits.") == limits)
            .map(|(k, v)| {
                format!(
                    "{k}: {}/{}",
                    Some(o.str_at(&["status", "used", k])).filter(|used| !used.is_empty()).unwrap_or("0"),
                    v.as_str().unwrap_or("")
                )
            })
            .collect();
        list.join(", ")
    };
    vec![name(o), part(false).into(), part(true).into(), age(o, now)]
}
