//! Workloads as their `scale` shows them (`autoscaling/v1`): what clients send to the subresource, and what admission is asked about.

use api::Kind;
use api::custom::ScalePaths;
use apimachinery::{Cause, LabelSelector, ObjectExt as _, Status};
use serde_json::{Value, json};

use crate::ApiServer;

/// Where a workload keeps what its `scale` shows.
pub fn scale_paths(server: &ApiServer, kind: &Kind) -> ScalePaths {
    let custom = server.catalog.definition(kind).and_then(|d| d.version(kind.version)?.scale.clone());
    custom.unwrap_or_else(|| ScalePaths {
        spec_replicas: vec!["spec".into(), "replicas".into()],
        status_replicas: vec!["status".into(), "replicas".into()],
        selector: None,
    })
}

/// What is at a path.
pub fn member<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    object.at(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Sets a member, and makes the objects on the way to it. A custom object may have anything else there.
///
/// # Errors
/// 400 where something other than an object is on the way.
pub fn put(object: &mut Value, path: &[String], value: Value) -> Result<(), Status> {
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

/// A workload with the replicas, and the resource version if there is one, of a Scale.
///
/// # Errors
/// 422 for a negative number, 400 where the workload has no place for it.
pub fn with_replicas(paths: &ScalePaths, current: &Value, scale: &Value) -> Result<Value, Status> {
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
pub fn scale_of(paths: &ScalePaths, object: &Value) -> Value {
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
