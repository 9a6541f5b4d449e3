//! Which policies and webhooks a request is for.

use api::{Kind, kinds};
use apimachinery::{LabelSelector, ObjectExt as _};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::ApiServer;

/// In which version of the kind a webhook is asked about a request: in the request's, or, unless its `matchPolicy` is `Exact`, in another one
/// that its rules name. None if its rules or selectors don't fit.
pub fn hook_fits<'k>(
    server: &ApiServer,
    hook: &Value,
    attributes: &AdmissionAttributes<'k>,
    object: &Value,
) -> Option<&'k Kind> {
    let names = |kind: &Kind| hook.array_at(&["rules"]).iter().any(|rule| rule_fits(rule, attributes, kind));
    let kind = match hook["matchPolicy"] == "Exact" {
        _ if names(attributes.kind) => Some(attributes.kind),
        true => None,
        false => server.catalog.other_versions(attributes.kind).into_iter().find(|kind| names(kind)),
    };
    kind.filter(|_| selectors_fit(server, hook, attributes, object))
}

/// In which version of the kind `matchConstraints` or `matchResources` are about a request: in the request's, or, unless their `matchPolicy`
/// is `Exact`, in another one that the rules name. None if they aren't about it; what isn't there excludes nothing.
pub fn resources_fit<'k>(
    server: &ApiServer,
    wanted: &Value,
    attributes: &AdmissionAttributes<'k>,
    object: &Value,
) -> Option<&'k Kind> {
    let named = |key: &str| -> Option<&'k Kind> {
        let rules = wanted.array_at(&[key]);
        let fits = |kind: &Kind| rules.iter().any(|rule| named_rule_fits(rule, attributes, kind));
        match wanted["matchPolicy"] == "Exact" {
            _ if fits(attributes.kind) => Some(attributes.kind),
            true => None,
            false if rules.is_empty() => None,
            false => server.catalog.other_versions(attributes.kind).into_iter().find(|kind| fits(kind)),
        }
    };
    let included = match wanted.array_at(&["resourceRules"]).is_empty() {
        true => Some(attributes.kind),
        false => named("resourceRules"),
    };
    included.filter(|_| named("excludeResourceRules").is_none() && selectors_fit(server, wanted, attributes, object))
}

fn selectors_fit(server: &ApiServer, wanted: &Value, attributes: &AdmissionAttributes<'_>, object: &Value) -> bool {
    namespace_fits(server, wanted, attributes, object) && object_fits(wanted, attributes, object)
}

fn named_rule_fits(rule: &Value, attributes: &AdmissionAttributes<'_>, kind: &Kind) -> bool {
    let names = rule.strings_at(&["resourceNames"]);
    rule_fits(rule, attributes, kind) && (names.is_empty() || names.contains(&attributes.name))
}

fn rule_fits(rule: &Value, attributes: &AdmissionAttributes<'_>, kind: &Kind) -> bool {
    let has = |key: &str, wanted: &str| rule.strings_at(&[key]).iter().any(|v| *v == "*" || *v == wanted);
    let resource = rule.strings_at(&["resources"]).into_iter().any(|r| {
        let (plural, subresource) = r.split_once('/').unwrap_or((r, ""));
        let subresource_fits =
            if r == "*" { attributes.subresource.is_none() } else { subresource == attributes.subresource_name() };
        (plural == "*" || kind.is_named(kind.group, plural)) && (subresource == "*" || subresource_fits)
    });
    let scope = match rule.str_at(&["scope"]) {
        "Namespaced" => kind.namespaced,
        "Cluster" => !kind.namespaced,
        _ => true,
    };
    has("operations", attributes.operation.as_str())
        && has("apiGroups", kind.group)
        && has("apiVersions", kind.version)
        && resource
        && scope
}

fn namespace_fits(server: &ApiServer, wanted: &Value, attributes: &AdmissionAttributes<'_>, object: &Value) -> bool {
    let Ok(selector) = LabelSelector::from_json(&wanted["namespaceSelector"]) else { return false };
    if selector.is_empty() {
        return true;
    }
    // A namespace is selected by its own labels; what is in no namespace is not subject to selection.
    if attributes.kind == kinds::NAMESPACES {
        return selector.matches(|k| object.at(&["metadata", "labels", k]).as_str());
    }
    if !attributes.kind.namespaced {
        return true;
    }
    server.cache.of(kinds::NAMESPACES).get(attributes.namespace).is_some_and(|n| selector.matches(|k| n.label(k)))
}

fn object_fits(wanted: &Value, attributes: &AdmissionAttributes<'_>, object: &Value) -> bool {
    let Ok(selector) = LabelSelector::from_json(&wanted["objectSelector"]) else { return false };
    let fits = |o: &Value| selector.matches(|k| o.at(&["metadata", "labels", k]).as_str());
    selector.is_empty() || fits(object) || attributes.old.is_some_and(fits)
}
