//! The subresource `scale` of workloads and custom kinds (`autoscaling/v1`).

use std::sync::Arc;

use api::columns;
use api::custom::ScalePaths;
use api::kinds::Target;
use apimachinery::{Cause, LabelSelector, ObjectExt as _, Status};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::authentication::User;
use crate::pipeline::{Patch, WriteRequest, decode, merge_applied, require_field_manager};
use crate::render::partial;
use crate::request::ResourceRequest;
use crate::response::negotiation::Form;
use crate::response::{self, Body};

/// Where a workload keeps what its `scale` shows.
fn scale_paths(server: &ApiServer, kind: &api::Kind) -> ScalePaths {
    let custom = server.catalog.definition(kind).and_then(|d| d.version(kind.version)?.scale.clone());
    custom.unwrap_or_else(|| ScalePaths {
        spec_replicas: vec!["spec".into(), "replicas".into()],
        status_replicas: vec!["status".into(), "replicas".into()],
        selector: None,
    })
}

fn member<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    object.at(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Sets a member, and makes the objects on the way to it. A custom object may have anything else there.
fn put(object: &mut Value, path: &[String], value: Value) -> Result<(), Status> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let wrong = || Status::bad_request(format!("{} can't be set: it is not within objects", path.join(".")));
    let mut at = object;
    for name in parents {
        at = at.as_object_mut().ok_or_else(wrong)?.entry(name.as_str()).or_insert(Value::Null);
        if at.is_null() {
            *at = json!({});
        }
    }
    at.as_object_mut().ok_or_else(wrong)?.insert(last.clone(), value);
    Ok(())
}

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

/// A workload with the replicas, and the resource version if there is one, of a Scale.
fn with_replicas(paths: &ScalePaths, current: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let detail = "must be greater than or equal to 0";
        let cause = Cause::invalid("spec.replicas", &json!(replicas), detail);
        return Err(Status::invalid("autoscaling", "Scale", current.name(), vec![cause]));
    }
    let mut new = current.clone();
    put(&mut new, &paths.spec_replicas, replicas.into())?;
    if !scale.resource_version().is_empty() {
        new.set_meta("resourceVersion", scale.resource_version());
    }
    Ok(new)
}

/// The `autoscaling/v1` Scale of a workload.
fn scale_of(paths: &ScalePaths, object: &Value) -> Value {
    let selector = &object["spec"]["selector"];
    let plain = |map: &Value| {
        let pairs = map.as_object().into_iter().flatten();
        pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect::<Vec<_>>().join(",")
    };
    // ReplicationControllers alone have a plain map.
    let structured = selector.get("matchLabels").is_some_and(Value::is_object)
        || selector.get("matchExpressions").is_some_and(Value::is_array);
    let selector = match &paths.selector {
        Some(path) => member(object, path).as_str().unwrap_or("").to_string(),
        None if structured => LabelSelector::from_json(selector).map(|s| s.to_string()).unwrap_or_default(),
        None => plain(selector),
    };
    let count = |path: &[String]| member(object, path).as_i64().unwrap_or(0);
    let meta = &object["metadata"];
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
                     "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"]},
        "spec": {"replicas": count(&paths.spec_replicas)},
        "status": {"replicas": count(&paths.status_replicas), "selector": selector}})
}
