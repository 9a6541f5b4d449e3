//! Claims that take devices although others have them (`adminAccess`, KEP-5018): only in namespaces that an administrator has labelled for that.
//! Upstream asks in the strategies of claims and their templates.

use api::kinds;
use apimachinery::{Cause, ObjectExt as _, Status};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::ApiServer;

/// The label of such namespaces.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Refuses a claim, a template or an allocation with access for administrators elsewhere.
///
/// # Errors
/// 422 with the field.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind;
    let old = attributes.old;
    let Some(path) = asked_at(attributes, object).filter(|_| old.is_none_or(|old| asked_at(attributes, old).is_none()))
    else {
        return Ok(());
    };
    let namespace = server.cache.of(kinds::NAMESPACES).get(object.namespace()).map(|namespace| namespace.parse());
    if namespace.is_some_and(|namespace| namespace.at(&["metadata", "labels", LABEL]) == "true") {
        return Ok(());
    }
    let why = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    Err(kind.invalid(object.name(), vec![Cause::forbidden(path, &why)]))
}

/// Where an object asks for it.
fn asked_at(attributes: &AdmissionAttributes<'_>, object: &Value) -> Option<String> {
    let kind = attributes.kind;
    let in_spec = |spec: &[&str], path: &str| {
        let requests = object.array_at(&[spec, &["devices", "requests"]].concat());
        let number = requests.iter().position(|asked| asked["exactly"]["adminAccess"] == true)?;
        Some(format!("{path}.devices.requests[{number}].adminAccess"))
    };
    if kind == kinds::RESOURCE_CLAIM_TEMPLATES {
        return in_spec(&["spec", "spec"], "spec.spec");
    }
    if kind != kinds::RESOURCE_CLAIMS {
        return None;
    }
    if attributes.subresource.is_none() {
        return in_spec(&["spec"], "spec");
    }
    let results = object.array_at(&["status", "allocation", "devices", "results"]);
    let number = results.iter().position(|result| result["adminAccess"] == true)?;
    Some(format!("status.allocation.devices.results[{number}].adminAccess"))
}
