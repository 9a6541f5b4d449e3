//! Subresources by which a part of an object is written: finalize, approval, ephemeralcontainers, resize.

use std::sync::Arc;

use api::kinds;
use api::kinds::Target;
use apimachinery::{ObjectExt as _, Status, clock};
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::authentication::User;
use crate::pipeline::{Patch, WriteRequest, decode};
use crate::request::{FieldValidation, ResourceRequest};
use crate::response::{self, Body};

/// What becomes of the stored object when a part of it is written.
pub type Merge = fn(&Value, &Value) -> Result<Value, Status>;

/// The stored object with `parts` as they were sent.
fn with_parts(current: &Value, sent: &Value, parts: &[&str]) -> Value {
    let mut new = current.clone();
    for part in parts {
        match &sent[*part] {
            Value::Null => drop(new.as_object_mut().and_then(|map| map.remove(*part))),
            value => new[*part] = value.clone(),
        }
    }
    if !sent.resource_version().is_empty() {
        new.set_meta("resourceVersion", sent.resource_version());
    }
    new
}

/// An update or patch of the part of an object that `merge` takes from what was sent.
///
/// # Errors
/// 400 for a body that can't be decoded, and what `merge` or the write refuses.
pub async fn write(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
    target: Target,
    merge: Merge,
) -> Result<Response<Body>, Status> {
    let write = WriteRequest::of(server, user, info)?.to(target);
    let validation = FieldValidation::read(&info.query)?;
    let dropped = Mutex::new(Vec::new());
    let bytes = if info.verb == "patch" {
        let patch = Patch::read(request).await?;
        let make = |current: &Value| {
            let mut patched = patch.apply(info.kind, current)?;
            // Only objects of the kind's type are stored: clients with typed lists couldn't decode any list that has another one.
            *dropped.lock() =
                decode::conform(server, &mut patched, info.kind, validation, Vec::new(), decode::Content::Whole)?;
            merge(current, &patched)
        };
        write.update(make).await?
    } else {
        let (sent, warnings) = decode::object(server, request, info.kind, &info.query).await?;
        *dropped.lock() = warnings;
        write.update(|current| merge(current, &sent)).await?
    };
    let mut answer = response::json_bytes(200, bytes);
    response::warn(&mut answer, &[dropped.into_inner(), write.warnings()].concat());
    Ok(answer)
}

/// A namespace with `spec.finalizers` and its status as they were sent.
///
/// # Errors
/// Never; the signature is that of all parts of objects.
pub fn finalize(current: &Value, sent: &Value) -> Result<Value, Status> {
    Ok(with_parts(current, sent, &["spec", "status"]))
}

/// A CertificateSigningRequest with the conditions that were sent: the right to approve is one to these, and neither
/// to the certificate nor to the spec.
///
/// # Errors
/// 422 for a request that would be both approved and denied.
pub fn approval(current: &Value, sent: &Value) -> Result<Value, Status> {
    let mut new = with_parts(current, sent, &[]);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        match &sent["metadata"][field] {
            Value::Null => {
                new.meta_mut().remove(field);
            }
            value => new.set_meta(field, value.clone()),
        }
    }
    let mut conditions = sent.array_at(&["status", "conditions"]).to_vec();
    let has = |kind: &str| conditions.iter().any(|c| c["type"] == kind);
    if has("Approved") && has("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        let cause = apimachinery::Cause::invalid("status.conditions", &json!("Denied"), why);
        return Err(kinds::CERTIFICATE_SIGNING_REQUESTS.invalid(current.name(), vec![cause]));
    }
    for condition in conditions.iter_mut().filter(|c| c.is_object()) {
        for time in ["lastUpdateTime", "lastTransitionTime"] {
            if condition[time].is_null() {
                condition[time] = clock::now_rfc3339().into();
            }
        }
    }
    new.child_mut("status").insert("conditions".into(), conditions.into());
    Ok(new)
}

/// Ephemeral containers may be added, and neither changed nor removed.
///
/// # Errors
/// 422 when one is changed or removed.
pub fn ephemeral_containers(current: &Value, sent: &Value) -> Result<Value, Status> {
    const PATH: [&str; 2] = ["spec", "ephemeralContainers"];
    // A field that was left out has its default, and is no change.
    let mut sent = sent.clone();
    kinds::PODS.apply_defaults(&mut sent);
    let new = sent.array_at(&PATH);
    for (i, old) in current.array_at(&PATH).iter().enumerate() {
        let found = new.iter().find(|c| c["name"] == old["name"]);
        let name = old.str_at(&["name"]);
        let why = match found {
            Some(found) if found == old => continue,
            Some(_) => format!("existing ephemeral containers {name:?} may not be changed"),
            None => format!("existing ephemeral containers {name:?} may not be removed"),
        };
        let cause = apimachinery::Cause::forbidden(format!("spec.ephemeralContainers[{i}]"), &why);
        return Err(kinds::PODS.invalid(current.name(), vec![cause]));
    }
    let mut merged = with_parts(current, &sent, &[]);
    merged["spec"]["ephemeralContainers"] = new.to_vec().into();
    Ok(merged)
}

/// A pod with `resources` and `resizePolicy` of its containers as they were sent (KEP-1287).
///
/// # Errors
/// Never; the signature is that of all parts of objects.
pub fn resize(current: &Value, sent: &Value) -> Result<Value, Status> {
    let mut merged = with_parts(current, sent, &[]);
    for list in ["containers", "initContainers"] {
        let sent = sent.array_at(&["spec", list]);
        for container in merged["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(found) = sent.iter().find(|c| c["name"] == container["name"]) {
                for field in ["resources", "resizePolicy"] {
                    match &found[field] {
                        Value::Null => {
                            container.as_object_mut().map(|c| c.remove(field));
                        }
                        value => container[field] = value.clone(),
                    }
                }
            }
        }
    }
    Ok(merged)
}
