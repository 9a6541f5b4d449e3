//! PodSecurity: pods that violate the policy which their namespace enforces are refused; those that it warns of or audits get a
//! warning or an audit annotation, templates of pods as well.

use std::collections::BTreeMap;

use api::pod_security::{Policy, Standard, is_significant, violations};
use api::{Subresource, kinds};
use apimachinery::{ObjectExt as _, Status};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::registry::Filter;
use crate::{ApiServer, audit};

/// How many pods of a namespace are looked at when its labels become stricter (upstream's figure).
const MAX_PODS: usize = 3000;

/// Refuses what may not be written, and returns what the client is warned of.
///
/// # Errors
/// 403 for a pod beyond what its namespace enforces, 422 for labels of a namespace that name no policy.
pub fn admit(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<Vec<String>, Status> {
    if attributes.kind == kinds::NAMESPACES {
        return if attributes.subresource.is_none() { namespace(server, attributes, object) } else { Ok(Vec::new()) };
    }
    let Some((metadata, spec)) = pod_in(attributes, object) else { return Ok(Vec::new()) };
    let Some(namespace) = server.cache.of(kinds::NAMESPACES).get(attributes.namespace) else { return Ok(Vec::new()) };
    let (policy, _) = Policy::read(|key| namespace.label(key));
    let found = |standard: Standard| -> Option<String> {
        let all = violations(standard, metadata, spec);
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| format!("PodSecurity \"{standard}\": {}", texts.join(", ")))
    };
    if let Some(why) = found(policy.audit) {
        audit::annotate("pod-security.kubernetes.io/audit-violations", || format!("would violate {why}"));
    }
    if attributes.kind == kinds::PODS {
        audit::annotate("pod-security.kubernetes.io/enforce-policy", || policy.enforce.to_string());
        if let Some(why) = found(policy.enforce) {
            return Err(attributes.kind.forbidden(attributes.name, &format!("violates {why}")));
        }
    }
    Ok(found(policy.warn).map(|why| format!("would violate {why}")).into_iter().collect())
}

/// Metadata and spec of a pod, or of the template of one, if this write can make it violate what it didn't before.
fn pod_in<'a>(attributes: &AdmissionAttributes<'_>, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    if attributes.kind == kinds::PODS {
        // The others change nothing of a pod that is looked at here, or are no writes of a pod.
        let writes_spec =
            matches!(attributes.subresource, None | Some(Subresource::EphemeralContainers | Subresource::Resize));
        let significant = attributes.old.is_none_or(|old| is_significant(object, old));
        return (writes_spec && significant).then(|| (&object["metadata"], &object["spec"]));
    }
    let template = (attributes.kind.strategy.pod_template)(object);
    (attributes.subresource.is_none() && template.is_object()).then(|| (&template["metadata"], &template["spec"]))
}

/// The labels of a namespace must be right, and say of which pods they would not be kept.
fn namespace(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<Vec<String>, Status> {
    let read = |of: &Value| {
        let labels = of.at(&["metadata", "labels"]).clone();
        Policy::read(|key| labels[key].as_str())
    };
    let (new, causes) = read(object);
    let before = attributes.old.map(read);
    let known = before.as_ref().is_some_and(|(_, old)| !old.is_empty() && *old == causes);
    if !causes.is_empty() && !known {
        return Err(attributes.kind.invalid(attributes.name, causes));
    }
    let Some((old, _)) = before else { return Ok(Vec::new()) };
    if !new.enforce.is_stricter_than(old.enforce) {
        return Ok(Vec::new());
    }
    Ok(present_pods(server, attributes.name, new.enforce))
}

/// Which pods of a namespace violate what is enforced from now on.
fn present_pods(server: &ApiServer, namespace: &str, enforce: Standard) -> Vec<String> {
    let filter = Filter { namespace: namespace.into(), ..Filter::default() };
    let entries = server.cache.of(kinds::PODS).list(&filter).0;
    let total = entries.len();
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in entries.iter().take(MAX_PODS).map(|entry| entry.parse()) {
        let found = violations(enforce, &pod["metadata"], &pod["spec"]);
        if !found.is_empty() {
            let reasons: Vec<&str> = found.iter().map(|v| v.reason).collect();
            by_reason.entry(reasons.join(", ")).or_default().push(pod.name().to_string());
        }
    }
    let mut warnings = Vec::new();
    if total > MAX_PODS {
        let what = "new PodSecurity enforce level only checked against the first";
        warnings.push(format!("{what} {MAX_PODS} of {total} existing pods"));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut pods: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, mut names)| {
            names.sort();
            let who = names.first().cloned().unwrap_or_default();
            match names.len() {
                1 => format!("{who}: {reason}"),
                2 => format!("{who} (and 1 other pod): {reason}"),
                count => format!("{who} (and {} other pods): {reason}", count - 1),
            }
        })
        .collect();
    pods.sort();
    warnings.extend(pods);
    warnings
}
