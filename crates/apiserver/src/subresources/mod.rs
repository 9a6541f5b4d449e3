//! Subresources other than `status` and the streams: scale, binding, eviction, token, approval, finalize, ephemeralcontainers, resize.

mod binding;
mod eviction;
mod parts;
mod scale;
mod token;

use std::sync::Arc;

use api::Subresource;
use api::kinds::Target;
use apimachinery::{ObjectExt as _, Status};
use http::{Request, Response};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::admission::{AdmissionAttributes, Operation, Options, dynamic};
use crate::authentication::User;
use crate::pipeline::decode;
use crate::render::one;
use crate::request::ResourceRequest;
use crate::response::negotiation::Form;
use crate::response::{self, Body};

pub use binding::bind;

/// Answers a request for a subresource.
///
/// # Errors
/// The Status of the subresource's own rules, or of the write that it makes.
pub async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    sub: Subresource,
    request: Request<Body>,
    form: Form,
) -> Result<Response<Body>, Status> {
    match (sub, info.verb) {
        (Subresource::Scale, "get") => scale::get(server, info, form),
        (Subresource::Scale, _) => scale::write(server, user, info, request).await,
        (Subresource::Binding, _) => {
            let binding = decode::of_type(request, "io.k8s.api.core.v1.Binding").await?;
            bind(server, user, info, &binding).await?;
            Ok(response::created())
        }
        (Subresource::Eviction, _) => eviction::create(server, user, info, request).await,
        (Subresource::Token, _) => token::create(server, user, info, request).await,
        (Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval, "get") => {
            let entry = server.cache.stored(info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?;
            Ok(one(server, info, form, 200, entry.bytes.clone()))
        }
        (sub, _) => {
            let (target, merge): (Target, parts::Merge) = match sub {
                Subresource::Finalize => (Target::Everything, parts::finalize),
                Subresource::Approval => (Target::Everything, parts::approval),
                Subresource::EphemeralContainers => (Target::Everything, parts::ephemeral_containers),
                Subresource::Resize => (Target::Resize, parts::resize),
                _ => return Err(Status::no_route()),
            };
            parts::write(server, user, info, request, target, merge).await
        }
    }
}

/// What policies and webhooks are asked about a subresource whose body isn't kept.
fn admission_attributes<'a>(
    user: &'a User,
    info: &'a ResourceRequest,
    operation: Operation,
    dry_run: bool,
) -> AdmissionAttributes<'a> {
    AdmissionAttributes {
        user,
        kind: info.kind,
        subresource: info.subresource,
        operation,
        name: &info.path.name,
        namespace: &info.path.namespace,
        old: None,
        dry_run,
        options: Options::default(),
    }
}

/// Asks policies and webhooks whether a stream or a proxy may be opened; its options stand in the query.
///
/// # Errors
/// The Status of the policy or webhook that refuses the connection.
pub async fn admit_connection(server: &Arc<ApiServer>, user: &User, info: &ResourceRequest) -> Result<(), Status> {
    let mut options = json!({});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if info.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    for text in ["container", "path"].into_iter().filter(|key| !info.query.get(key).is_empty()) {
        options[text] = info.query.get(text).into();
    }
    let command = info.query.all("command");
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    dynamic::admit(server, &admission_attributes(user, info, Operation::Connect, false), &options).await.map(|_| ())
}

/// Sets a condition, in place of the one of its type.
fn set_condition(object: &mut Value, condition: Value) {
    let status = object.child_mut("status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}
