//! Creating objects.

use apimachinery::{Cause, ObjectExt as _, Status, clock};
use bytes::Bytes;
use serde_json::Value;

use api::{Kind, kinds};

use super::{Draft, WriteRequest};
use crate::admission::{Operation, builtin};
use crate::registry::generated_name;
use crate::request::ResourceRequest;

/// How many names are tried for an object with `generateName` (upstream's `maxNameGenerationAttempts`, and the first).
const NAME_TRIES: usize = 9;

impl WriteRequest<'_> {
    /// Creates an object, and returns its bytes.
    ///
    /// # Errors
    /// 409 when it exists, 422 when it is invalid, and what admission and the store refuse.
    pub async fn create(&self, mut object: Value) -> Result<Bytes, Status> {
        let kind = self.kind;
        self.server.catalog.admit_new(kind)?;
        check_namespace(kind, self.namespace, &mut object)?;
        if !object.resource_version().is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if kind == kinds::PODS {
            builtin::wait_for_account(self.server, self.namespace, &object).await;
        }
        if !object.name().is_empty() {
            return self.create_named(object).await;
        }
        let prefix = object.meta("generateName").to_string();
        if prefix.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(kind.invalid("", vec![cause]));
        }
        for attempt in 1..=NAME_TRIES {
            let mut named = object.clone();
            named.set_meta("name", generated_name(&prefix));
            match self.create_named(named).await {
                Err(status) if status.reason == "AlreadyExists" && attempt < NAME_TRIES => {}
                done => return done,
            }
        }
        Err(Status::internal("no free name was found"))
    }

    async fn create_named(&self, object: Value) -> Result<Bytes, Status> {
        let mut draft = Draft::new(self, Operation::Create, object, Value::Null);
        draft.run().await?;
        draft.commit_create().await
    }
}

/// Sets what the server alone decides of a new object.
pub(super) fn set_identity(object: &mut Value) {
    object.set_meta("uid", uuid::Uuid::new_v4().to_string());
    object.set_meta("creationTimestamp", clock::now_rfc3339());
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        object.meta_mut().remove(field);
    }
}

/// Checks name and namespace in a body against those of the path, and sets them where the body has none.
///
/// # Errors
/// 400 when they differ.
pub fn check_identity(info: &ResourceRequest, object: &mut Value) -> Result<(), Status> {
    if object.name().is_empty() {
        object.set_meta("name", info.path.name.as_str());
    }
    if object.name() != info.path.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            info.path.name
        )));
    }
    check_namespace(info.kind, &info.path.namespace, object)
}

/// Checks the namespace in a body against that of the path.
fn check_namespace(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let said = object.namespace().to_string();
    if !kind.namespaced {
        object.meta_mut().remove("namespace");
        return Ok(());
    }
    if namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    if !said.is_empty() && said != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({said} != {namespace})"
        )));
    }
    object.set_meta("namespace", namespace);
    Ok(())
}
