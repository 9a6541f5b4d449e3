//! What the statuses of several kinds have in common (upstream's `Validate…StatusUpdate`).

use apimachinery::{Cause, names};
use serde_json::{Value, json};

use super::field::{Causes, Field, too_long};

/// The status of an object.
pub fn of(object: &Value) -> Field<'_> {
    Field::new(&object["status"], "status")
}

/// Conditions of `metav1.Condition` (upstream's `ValidateConditions`).
pub fn conditions(listed: &Field<'_>, causes: &mut Causes) {
    const MOST_REASON: usize = 1 << 10;
    const MOST_MESSAGE: usize = 32 << 10;
    let mut seen = std::collections::HashSet::new();
    for condition in listed.items() {
        let (kind, state, reason) = (condition.at("type"), condition.at("status"), condition.at("reason"));
        if !seen.insert(kind.text()) {
            causes.push(Cause::duplicate(&condition.path, kind.value));
        }
        if kind.require("is required", causes) {
            kind.is(names::qualified_name, causes);
        }
        state.must_be(&["False", "True", "Unknown"], causes);
        let generation = condition.at("observedGeneration");
        if generation.value.as_i64().is_some_and(|n| n < 0) {
            generation.invalid("must be greater than or equal to zero", causes);
        }
        condition.at("lastTransitionTime").require("", causes);
        if reason.require("", causes) {
            if !is_reason(reason.text()) {
                reason.invalid(REASON, causes);
            }
            if reason.text().len() > MOST_REASON {
                causes.push(too_long(&reason.path, MOST_REASON));
            }
        }
        if condition.at("message").text().len() > MOST_MESSAGE {
            causes.push(too_long(&condition.at("message").path, MOST_MESSAGE));
        }
    }
}

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

fn is_reason(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || c == ',' || c == ':')
}

/// Whether a condition of a type says True.
pub fn is_true(conditions: &Field<'_>, kind: &str) -> bool {
    conditions.items().any(|c| c.at("type").text() == kind && c.at("status").text() == "True")
}

/// Numbers that aren't negative.
pub fn counts(status: &Field<'_>, fields: &[&str], causes: &mut Causes) {
    fields.iter().for_each(|field| status.at(field).not_negative(causes));
}

/// A number that another of the status bounds; what isn't there is none.
pub fn bounded_by(status: &Field<'_>, field: &str, bound: &str, why: &str, causes: &mut Causes) {
    let number = |field: &str| status.at(field).value.as_i64().unwrap_or(0);
    if number(field) > number(bound) {
        Field { value: &json!(number(field)), path: status.at(field).path }.invalid(why, causes);
    }
}

/// The numbers of a set of replicas: `fields` aren't more than there are, and no more are available than ready.
pub fn replicas(status: &Field<'_>, fields: &[&str], causes: &mut Causes) {
    counts(status, &["observedGeneration", "replicas", "collisionCount", "terminatingReplicas"], causes);
    counts(status, fields, causes);
    for field in fields {
        bounded_by(status, field, "replicas", "cannot be greater than status.replicas", causes);
    }
    bounded_by(status, "availableReplicas", "readyReplicas", "cannot be greater than readyReplicas", causes);
}

/// A counter of collisions never falls, as names would come back.
pub fn collisions(object: &Value, old: &Value, causes: &mut Causes) {
    let count = |object: &Value| object["status"]["collisionCount"].as_i64();
    if count(old).is_some_and(|before| count(object).is_none_or(|now| now < before)) {
        let counter = Field::new(object, "status.collisionCount");
        let now = json!(count(object).unwrap_or(0));
        Field { value: &now, ..counter }.invalid("cannot be decremented", causes);
    }
}

/// Where a load balancer is.
pub fn load_balancer(status: &Field<'_>, causes: &mut Causes) {
    for ingress in status.at("loadBalancer").at("ingress").items() {
        let (ip, host) = (ingress.at("ip"), ingress.at("hostname"));
        let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
        if !ip.is_empty() && !is_address(ip.text()) {
            ip.invalid("must be a valid IP address", causes);
        }
        if ip.is_empty() && ingress.at("ipMode").is_set() {
            ingress.at("ipMode").forbid("may not be specified when `ip` is not set", causes);
        } else {
            ingress.at("ipMode").one_of(&["Proxy", "VIP"], causes);
        }
        host.is(names::dns1123_subdomain, causes);
        if is_address(host.text()) {
            host.invalid("must be a DNS name, not an IP address", causes);
        }
    }
}
