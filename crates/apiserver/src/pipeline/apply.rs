//! Server-side apply (KEP-555).

use std::sync::Arc;

use api::kinds::Target;
use apimachinery::{Cause, ObjectExt as _, Status, bounded};
use bytes::Bytes;
use serde_json::{Value, json};

use super::create::check_identity;
use super::patch::too_large;
use super::{CONFLICT_RETRIES, WriteRequest, managed};
use crate::ApiServer;
use crate::authentication::User;
use crate::authorization;
use crate::request::ResourceRequest;

/// Apply requests must set `fieldManager`.
///
/// # Errors
/// 422 when it is empty.
pub fn require_field_manager(info: &ResourceRequest) -> Result<(), Status> {
    if info.query.get("fieldManager").is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    Ok(())
}

/// Applies a configuration: changes the object, or creates it. Returns the code of the answer, the object's bytes and warnings.
///
/// # Errors
/// 409 with a cause for each field that another manager has, unless the request forces it; 403 when the user may not create the object
/// that isn't there; and what a create or an update refuses.
pub async fn apply(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    mut config: Value,
) -> Result<(u16, Bytes, Vec<String>), Status> {
    require_field_manager(info)?;
    if !config.at(&["metadata", "managedFields"]).is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    check_identity(info, &mut config)?;
    let write = WriteRequest::of(server, user, info)?.applied();
    let force = info.query.flag("force");
    let make = |live: &Value| {
        let typed = server.catalog.typed(info.kind);
        let mut new = managed::apply(&typed, info.kind, write.target, &write.manager, live, &config, force)?;
        bounded::check_result(&new).map_err(|why| too_large(&why))?;
        if !info.kind.custom {
            server.catalog.prune(info.kind, &mut new);
        }
        new.set_meta("resourceVersion", config.resource_version());
        Ok(new)
    };
    for attempt in 0..=CONFLICT_RETRIES {
        let exists = server.cache.stored(info.kind)?.get(&info.key()).is_some();
        if exists || write.target != Target::Main {
            let bytes = write.update(make).await?;
            return Ok((200, bytes, write.warnings()));
        }
        if !config.uid().is_empty() {
            let uid = config.uid();
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(info.kind.conflict(&info.path.name, &why));
        }
        authorization::authorize_as(server, user, info, "create")?;
        let mut object = make(&json!({}))?;
        // As upstream, which makes an object that is exported from elsewhere by applying it.
        object.meta_mut().remove("resourceVersion");
        match write.create(object).await {
            // Another write created it meanwhile: apply to that.
            Err(status) if status.reason == "AlreadyExists" && attempt < CONFLICT_RETRIES => {}
            done => return Ok((201, done?, write.warnings())),
        }
    }
    Err(info.kind.modified(&info.path.name))
}
