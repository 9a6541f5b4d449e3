//! Groups of the Kubernetes project itself, for which a definition needs an approval (KEP-1111, `api-approved.kubernetes.io`).

use apimachinery::{Cause, ObjectExt as _};
use serde_json::Value;

use crate::validate::field::Causes;

/// The annotation with the approval.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a group is one of the Kubernetes project's.
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.')))
}

/// What an annotation says of the approval of a group: whether that is enough, a reason, and words.
fn approved(object: &Value) -> (bool, &'static str, String) {
    let said = object.at(&["metadata", "annotations", APPROVED]).as_str().unwrap_or("");
    let is_url = said.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|c| c.is_ascii_alphanumeric())
            && !rest.is_empty()
            && !rest.starts_with('/')
    });
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match said {
        "" => {
            (false, "MissingAnnotation", format!("protected groups must have approval annotation {APPROVED:?}, {SEE}"))
        }
        _ if said.starts_with("unapproved") => (true, "UnapprovedAnnotation", format!("not approved: {said:?}")),
        _ if is_url => (true, "ApprovedAnnotation", format!("approved in {said}")),
        _ => {
            let why = format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \
                 \"unapproved\", {SEE}"
            );
            (false, "InvalidAnnotation", why)
        }
    }
}

/// The condition that tells of a protected group's approval: status, reason and message.
pub(super) fn condition(object: &Value) -> Option<(bool, &'static str, String)> {
    let (_, reason, message) = approved(object);
    is_protected(object.str_at(&["spec", "group"])).then_some((reason == "ApprovedAnnotation", reason, message))
}

/// Refuses a protected group without the annotation.
pub(super) fn check(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    if !is_protected(object.str_at(&["spec", "group"])) {
        return;
    }
    let (is_enough, state, why) = approved(object);
    // What was let in before stays.
    if is_enough || old.is_some_and(|old| approved(old).1 == state) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVED}]");
    causes.push(match state {
        "MissingAnnotation" => Cause::required(path, &why),
        _ => Cause::invalid(path, object.at(&["metadata", "annotations", APPROVED]), &why),
    });
}
