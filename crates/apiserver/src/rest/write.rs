//! Create, update, patch and delete: decodes what a client sends, has it written, and answers with what was written.

use std::sync::Arc;

use api::kinds::{Dependents, Target};
use apimachinery::{Cause, ObjectExt as _, Status};
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::list::{self, Answer, Source};
use crate::authentication::User;
use crate::pipeline::decode::{self, Content};
use crate::pipeline::{CONFLICT_RETRIES, Patch, WriteRequest, apply, check_identity};
use crate::registry::Listed;
use crate::render::one;
use crate::request::{DeleteOptions, FieldValidation, ResourceRequest};
use crate::response::negotiation::Form;
use crate::response::{self, Body};
use crate::{ApiServer, authorization, conversion};

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
    let (code, bytes) = update_or_create(&write, info, object).await?;
    Ok(answer(server, info, form, code, bytes, &[warnings, write.warnings()].concat()))
}

/// Carries out an update, which makes an object that isn't there if its kind lets it (upstream's `AllowCreateOnUpdate`). Returns the code of
/// the answer and the object.
async fn update_or_create(
    write: &WriteRequest<'_>,
    info: &ResourceRequest,
    object: Value,
) -> Result<(u16, Bytes), Status> {
    let (server, kind) = (write.server, info.kind);
    let may_create = kind.strategy.made_by_updates && write.target == Target::Main;
    let unpinned = kind.strategy.updates_name_version && object.resource_version().is_empty();
    let make = |old: &Value| {
        if unpinned {
            let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(kind.invalid(old.name(), vec![cause]));
        }
        Ok(object.clone())
    };
    for attempt in 0..=CONFLICT_RETRIES {
        let retry = attempt < CONFLICT_RETRIES;
        if !may_create || server.cache.stored(kind)?.get(&info.key()).is_some() {
            match write.update(make).await {
                // It went away since.
                Err(status) if may_create && retry && status.reason == "NotFound" => continue,
                done => return Ok((200, done?)),
            }
        }
        authorization::authorize_as(server, write.user, info, "create")?;
        if !object.uid().is_empty() {
            let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: ", object.uid());
            return Err(kind.conflict(&info.path.name, &why));
        }
        let mut new = object.clone();
        new.meta_mut().remove("resourceVersion");
        match write.create(new).await {
            // Another write created it meanwhile: then this is an update.
            Err(status) if retry && status.reason == "AlreadyExists" => {}
            done => return Ok((201, done?)),
        }
    }
    Err(kind.modified(&info.path.name))
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
    let make = |current: &Value| {
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
    let options = decode::delete_options(request, &info.query).await?;
    let warnings = of_silence(info, &options);
    let answer = WriteRequest::of(server, user, info)?.delete(&options).await?;
    let answer =
        if answer["kind"] == "Status" { answer } else { conversion::object(server, info.kind, answer).await? };
    let mut answer = response::json(200, &answer);
    response::warn(&mut answer, &warnings);
    Ok(answer)
}

/// What a client is warned of that doesn't say what becomes of the dependents.
fn of_silence(info: &ResourceRequest, options: &DeleteOptions) -> Vec<String> {
    match info.kind.strategy.deletion.dependents {
        Dependents::Orphaned(Some(warning)) if options.propagation.is_empty() => vec![warning.into()],
        _ => Vec::new(),
    }
}

/// Deletes the objects of a collection that the selectors of the query choose, one after the other.
///
/// # Errors
/// 400 for options or selectors that can't be read, and the first refusal of a deletion.
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
            Ok(_) => gone.push(entry),
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let revision = server.cache.revision();
    let source = Source::Present(Arc::new(Listed::of_one(gone, revision)));
    let answer = Answer { form: Form::Json, yaml: false, revision, more: None };
    let mut answer = list::answer(server, user, info, source, answer).await?;
    response::warn(&mut answer, &of_silence(info, &options));
    Ok(answer)
}
