//! Create, update, patch and delete: decodes what a client sends, has it written, and answers with what was written.

use std::sync::Arc;

use api::kinds::Dependents;
use apimachinery::{Cause, Status};
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::json;

use super::render::one;
use crate::authentication::User;
use crate::pipeline::decode::{self, Content};
use crate::pipeline::{Patch, WriteRequest, apply, check_identity};
use crate::request::{FieldValidation, ResourceRequest};
use crate::response::negotiation::Form;
use crate::response::{self, Body};
use crate::{ApiServer, conversion};

/// The answer to a write: the object, with warnings about what was dropped.
fn answer(
    server: &ApiServer,
    info: &ResourceRequest,
    form: Form,
    code: u16,
    bytes: Bytes,
    warnings: &[String],
) -> Response<Body> {
    let mut response = one(server, info, form, code, bytes);
    response::warn(&mut response, warnings);
    response
}

/// POST.
///
/// # Errors
/// What can't be decoded or created.
pub async fn create(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let (object, warnings) = decode::object(server, request, info.kind, &info.query).await?;
    let write = WriteRequest::of(server, user, info)?;
    let bytes = write.create(object).await?;
    Ok(answer(server, info, form, 201, bytes, &[warnings, write.warnings()].concat()))
}

/// PUT.
///
/// # Errors
/// What can't be decoded or updated.
pub async fn update(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let (mut object, warnings) = decode::object(server, request, info.kind, &info.query).await?;
    check_identity(info, &mut object)?;
    let write = WriteRequest::of(server, user, info)?;
    let bytes = write.update(|_| Ok(object.clone())).await?;
    Ok(answer(server, info, form, 200, bytes, &[warnings, write.warnings()].concat()))
}

/// PATCH, server-side apply included.
///
/// # Errors
/// What can't be decoded, applied or updated.
pub async fn patch(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    let patch = Patch::read(request).await?;
    let validation = FieldValidation::read(&info.query)?;
    if let Patch::Apply(mut config, duplicates) = patch {
        let warnings = decode::conform(server, &mut config, info.kind, validation, duplicates, Content::Applied)?;
        let (code, bytes, further) = apply(server, user, info, config).await?;
        return Ok(answer(server, info, form, code, bytes, &[warnings, further].concat()));
    }
    if !info.query.get("force").is_empty() {
        let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let warnings = Mutex::new(Vec::new());
    let write = WriteRequest::of(server, user, info)?;
    let make = |current: &serde_json::Value| {
        let mut patched = patch.apply(info.kind, current)?;
        *warnings.lock() = decode::conform(server, &mut patched, info.kind, validation, Vec::new(), Content::Whole)?;
        server.catalog.drop_nulls(info.kind, &mut patched);
        Ok(patched)
    };
    let bytes = write.update(make).await?;
    Ok(answer(server, info, form, 200, bytes, &[warnings.into_inner(), write.warnings()].concat()))
}

/// DELETE of one object.
///
/// # Errors
/// What can't be decoded or deleted.
pub async fn delete(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut options = decode::delete_options(request, &info.query).await?;
    let mut warnings = Vec::new();
    if options.propagation.is_empty()
        && let Dependents::Orphaned(warning) = info.kind.strategy.deletion.dependents
    {
        options.propagation = "Orphan".into();
        warnings.extend(warning.map(String::from));
    }
    let answer = WriteRequest::of(server, user, info)?.delete(&options).await?;
    let answer =
        if answer["kind"] == "Status" { answer } else { conversion::object(server, info.kind, answer).await? };
    let mut answer = response::json(200, &answer);
    response::warn(&mut answer, &warnings);
    Ok(answer)
}

/// DELETE of a collection: all objects that the selectors choose.
///
/// # Errors
/// The Status of the first object that can't be deleted.
pub async fn delete_collection(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let options = decode::delete_options(request, &info.query).await?;
    let filter = info.query.filter(info.kind, &info.path.namespace)?;
    let (items, _) = server.cache.stored(info.kind)?.list(&filter);
    let mut gone = Vec::new();
    for entry in items {
        let write = WriteRequest::of(server, user, info)?.at(entry.namespace(), entry.name());
        match write.delete(&options).await {
            Ok(_) => gone.push(entry.parse()),
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let kind = info.kind;
    let list = json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": server.cache.revision().to_string()}, "items": gone});
    Ok(response::json(200, &list))
}
