//! Kinds of `rbac.authorization.k8s.io`.

pub(crate) mod cluster_role;
pub(crate) mod cluster_role_binding;
pub(crate) mod role;
pub(crate) mod role_binding;

use apimachinery::{Cause, ObjectExt as _, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::columns::{AGE, NAME, Printer, age, name, text, wide};
use crate::defaults::{child, default_text, items};
use crate::validate::field::{Causes, Field};
use crate::validate::{immutable, one_of};

const GROUP: &str = "rbac.authorization.k8s.io";

table! {
    CLUSTER_ROLE_BINDINGS = cluster_role_binding;
    CLUSTER_ROLES = cluster_role;
    ROLE_BINDINGS = role_binding;
    ROLES = role;
}

/// What is checked of a role. One without a namespace can be about paths that are no resources.
fn check_role(object: &Value, namespaced: bool, causes: &mut Causes) {
    for (i, rule) in object.array_at(&["rules"]).iter().enumerate() {
        if rule.array_at(&["verbs"]).is_empty() {
            causes.push(Cause::required(format!("rules[{i}].verbs"), "verbs must contain at least one value"));
        }
        let paths = !rule.array_at(&["nonResourceURLs"]).is_empty();
        if paths && namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            causes.push(Cause::invalid(format!("rules[{i}].nonResourceURLs"), &rule["nonResourceURLs"], detail));
        }
        let of_resources = ["apiGroups", "resources", "resourceNames"];
        if paths && !namespaced && of_resources.iter().any(|f| !rule.array_at(&[f]).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            causes.push(Cause::invalid(format!("rules[{i}].nonResourceURLs"), &rule["nonResourceURLs"], detail));
        }
        if !paths && rule.array_at(&["apiGroups"]).is_empty() {
            let detail = "resource rules must supply at least one api group";
            causes.push(Cause::required(format!("rules[{i}].apiGroups"), detail));
        }
        if !paths && rule.array_at(&["resources"]).is_empty() {
            let detail = "resource rules must supply at least one resource";
            causes.push(Cause::required(format!("rules[{i}].resources"), detail));
        }
    }
}

/// What is checked of a binding, whose role is of one of `role_kinds`.
fn check_binding(object: &Value, old: Option<&Value>, role_kinds: &[&str], namespaced: bool, causes: &mut Causes) {
    immutable(object, old, &["roleRef"], "roleRef", causes);
    one_of(object, &["roleRef", "kind"], "roleRef.kind", role_kinds, causes);
    if object.str_at(&["roleRef", "name"]).is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    let group = &object["roleRef"]["apiGroup"];
    if group != GROUP {
        causes.push(Cause::not_supported("roleRef.apiGroup", &json!(group.as_str().unwrap_or("")), &[GROUP]));
    }
    for subject in Field::root(object).at("subjects").items() {
        check_subject(&subject, namespaced, causes);
    }
}

/// Whom a binding gives its role.
fn check_subject(subject: &Field<'_>, namespaced: bool, causes: &mut Causes) {
    let (name, group) = (subject.at("name"), subject.at("apiGroup"));
    one_of(subject.value, &["kind"], &subject.at("kind").path, &["ServiceAccount", "User", "Group"], causes);
    name.require("", causes);
    match subject.at("kind").text() {
        "ServiceAccount" => {
            name.is(names::dns1123_subdomain, causes);
            if !group.is_empty() {
                causes.push(Cause::not_supported(&group.path, group.value, &[""]));
            }
            // In a RoleBinding it is the binding's own unless it is said.
            if !namespaced {
                subject.at("namespace").require("", causes);
            }
        }
        "User" | "Group" if group.text() != GROUP => {
            causes.push(Cause::not_supported(&group.path, &json!(group.text()), &[GROUP]));
        }
        _ => {}
    }
}

fn default_binding(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    if let Some(role) = child(map, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in items(map, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

const BINDING_PRINTER: Printer = Printer {
    columns: &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    row: binding_row,
};

fn binding_row(o: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"]));
    let of = |kind: &str| -> Value {
        let names =
            o.array_at(&["subjects"]).iter().filter(|s| s["kind"] == kind).map(|s| match s.str_at(&["namespace"]) {
                "" => s.str_at(&["name"]).to_string(),
                namespace => format!("{namespace}/{}", s.str_at(&["name"])),
            });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![name(o), role.into(), age(o, now), of("User"), of("Group"), of("ServiceAccount")]
}
