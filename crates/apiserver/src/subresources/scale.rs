//! The subresource `scale` of workloads and custom kinds (`autoscaling/v1`).

use std::sync::Arc;

use api::columns;
use api::custom::ScalePaths;
use api::kinds::Target;
use apimachinery::{ObjectExt as _, Status};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::authentication::User;
use crate::pipeline::scale::{member, put, scale_of, scale_paths, with_replicas};
use crate::pipeline::{Patch, WriteRequest, decode, merge_applied, require_field_manager};
use crate::render::partial;
use crate::request::ResourceRequest;
use crate::response::negotiation::Form;
use crate::response::{self, Body};

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// The scale of a workload, in the form that the client wants.
///
/// # Errors
/// 404 without the workload; 500 for a custom resource that hasn't got what its definition promises, as upstream.
pub fn get(server: &ApiServer, info: &ResourceRequest, form: Form) -> Result<Response<Body>, Status> {
    let paths = scale_paths(server, info.kind);
    let object = server.cache.stored(info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?.parse();
    if info.kind.custom && member(&object, &paths.spec_replicas).is_null() {
        let path = format!(".{}", paths.spec_replicas.join("."));
        return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
    }
    let scale = scale_of(&paths, &object);
    let Form::Table(version) = form else { return Ok(response::json(200, &scale)) };
    let metadata = json!({"resourceVersion": scale.resource_version()});
    let mut table = columns::table(&columns::SCALE, &[scale], |scale| partial(version, scale), metadata);
    table["apiVersion"] = version.into();
    Ok(response::json(200, &table))
}

/// Carries out an update, patch or apply of a scale.
///
/// # Errors
/// 422 for a negative number of replicas, and what the write refuses.
pub async fn write(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let paths = scale_paths(server, info.kind);
    let write = WriteRequest::of(server, user, info)?;
    let bytes = if info.verb == "patch" {
        match Patch::read(request).await? {
            Patch::Apply(config, _) => apply(&paths, info, write.applied(), config).await?,
            patch => {
                let make = |current: &Value| {
                    let mut scale = patch.apply(info.kind, &scale_of(&paths, current))?;
                    decode::conform_to(&mut scale, SCALE)?;
                    with_replicas(&paths, current, &scale)
                };
                write.update(make).await?
            }
        }
    } else {
        let sent = decode::of_type(request, SCALE).await?;
        write.update(|current| with_replicas(&paths, current, &sent)).await?
    };
    let object: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(response::json(200, &scale_of(&paths, &object)))
}

/// Server-side apply of a Scale.
async fn apply(
    paths: &ScalePaths,
    info: &ResourceRequest,
    write: WriteRequest<'_>,
    mut config: Value,
) -> Result<Bytes, Status> {
    require_field_manager(info)?;
    decode::conform_to(&mut config, SCALE)?;
    let typed = write.server.catalog.typed(info.kind);
    let force = info.query.flag("force");
    let make = |current: &Value| {
        // To the field manager it is a configuration of the workload that has the replicas alone.
        let mut applied = json!({"apiVersion": current["apiVersion"], "kind": current["kind"],
            "metadata": {"name": current["metadata"]["name"]}});
        if !config.at(&["spec", "replicas"]).is_null() {
            let wanted = with_replicas(paths, current, &config)?;
            let replicas = member(&wanted, &paths.spec_replicas).clone();
            put(&mut applied, &paths.spec_replicas, replicas)?;
        }
        merge_applied(&typed, info.kind, Target::Main, &write.manager, current, &applied, force)
    };
    write.update(make).await
}
