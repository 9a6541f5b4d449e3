//! Subresources other than `status` and the streams: scale, binding, eviction, token, approval, finalize.

use std::sync::Arc;

use api::custom::ScalePaths;
use api::{Subresource, kinds};
use apimachinery::{LabelSelector, ObjectExt as _, Status, clock};
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::Write;

use super::body::{self, FieldValidation};
use super::write::{self, Change, commit};
use super::{Patch, delete, token};
use crate::auth::User;
use crate::cache::store_key;
use crate::external::{self, Attempt};
use crate::object::encode;
use crate::request::Info;
use crate::response::{self, Body};
use crate::strategy::Target;
use crate::{ApiServer, managed};

pub async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    sub: Subresource,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let kind = info.kind;
    match (sub, info.verb) {
        (Subresource::Scale, _) => scale(server, user, info, request).await,
        (Subresource::Binding, _) => {
            let binding = body::of_type(request, "io.k8s.api.core.v1.Binding").await?;
            bind(server, user, info, &binding).await?;
            Ok(response::json(201, &created()))
        }
        (Subresource::Eviction, _) => evict(server, user, info, request).await,
        (Subresource::Token, _) => token::create(server, user, info, request).await,
        (Subresource::Finalize, _) => change_part(server, user, info, request, Target::Everything, finalized).await,
        (Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval, "get") => {
            let entry = super::read::resource(server, kind)?.get(&info.key()).ok_or_else(|| info.not_found())?;
            Ok(response::json_bytes(200, entry.bytes.clone()))
        }
        (Subresource::Approval, _) => change_part(server, user, info, request, Target::Everything, approved).await,
        (Subresource::EphemeralContainers, _) => {
            change_part(server, user, info, request, Target::Everything, with_ephemeral).await
        }
        (Subresource::Resize, _) => change_part(server, user, info, request, Target::Resize, with_resources).await,
        _ => Err(Status::no_route()),
    }
}

fn created() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

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
async fn change_part(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
    target: Target,
    merge: fn(&Value, &Value) -> Result<Value, Status>,
) -> Result<Response<Body>, Status> {
    let change = Change::to(target, info)?;
    let validation = FieldValidation::read(&info.query)?;
    let dropped = Mutex::new(Vec::new());
    let bytes = if info.verb == "patch" {
        let patch = Patch::read(request).await?;
        let make = |current: &Value| {
            let mut patched = patch.apply(info.kind, current)?;
            // Nothing is kept that isn't of the kind's types: whoever reads it typed could read no other of its kind either.
            *dropped.lock() =
                body::conform(server, &mut patched, info.kind, validation, Vec::new(), body::Content::Whole)?;
            merge(current, &patched)
        };
        change.carry_out(server, user, info, make).await?
    } else {
        let (sent, warnings) = body::object(server, request, info.kind, &info.query).await?;
        *dropped.lock() = warnings;
        change.carry_out(server, user, info, |current| merge(current, &sent)).await?
    };
    let mut answer = response::json_bytes(200, bytes);
    response::warn(&mut answer, &[dropped.into_inner(), change.warnings()].concat());
    Ok(answer)
}

/// A namespace with what holds it, and its status, as they were sent.
fn finalized(current: &Value, sent: &Value) -> Result<Value, Status> {
    Ok(with_parts(current, sent, &["spec", "status"]))
}

/// A request for a certificate with the conditions that were sent: whoever approves decides about these, and neither
/// about the certificate nor what it is for.
fn approved(current: &Value, sent: &Value) -> Result<Value, Status> {
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
fn with_ephemeral(current: &Value, sent: &Value) -> Result<Value, Status> {
    const PATH: [&str; 2] = ["spec", "ephemeralContainers"];
    // What wasn't said is what it is by default, and no change.
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

/// What the containers of a pod may use, and nothing else.
fn with_resources(current: &Value, sent: &Value) -> Result<Value, Status> {
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

async fn scale(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let resource = super::read::resource(server, info.kind)?;
    let paths = scale_paths(server, info.kind);
    if info.verb == "get" {
        let entry = resource.get(&info.key()).ok_or_else(|| info.not_found())?;
        return Ok(response::json(200, &scale_of(&paths, &entry.parse())));
    }
    let change = Change::to(Target::Main, info)?;
    let set = |current: &Value, scale: &Value| -> Result<Value, Status> {
        let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let detail = "must be greater than or equal to 0";
            let cause = apimachinery::Cause::invalid("spec.replicas", &json!(replicas), detail);
            return Err(Status::invalid("autoscaling", "Scale", &info.path.name, vec![cause]));
        }
        let mut new = current.clone();
        put(&mut new, &paths.spec_replicas, replicas.into())?;
        if !scale.resource_version().is_empty() {
            new.set_meta("resourceVersion", scale.resource_version());
        }
        Ok(new)
    };
    let bytes = if info.verb == "patch" {
        match Patch::read(request).await? {
            Patch::Apply(mut config, _) => {
                write::demand_manager(info)?;
                body::conform_to(&mut config, SCALE)?;
                let of = server.catalog.typed(info.kind);
                let force = info.query.flag("force");
                let make = |current: &Value| {
                    // To the manager it is a configuration of the workload that has nothing but this.
                    let mut applied = json!({"apiVersion": current["apiVersion"], "kind": current["kind"],
                        "metadata": {"name": current["metadata"]["name"]}});
                    if !config.at(&["spec", "replicas"]).is_null() {
                        let wanted = set(current, &config)?;
                        let replicas = member(&wanted, &paths.spec_replicas).clone();
                        put(&mut applied, &paths.spec_replicas, replicas)?;
                    }
                    managed::apply(&of, info.kind, Target::Main, &info.writer(), current, &applied, force)
                };
                change.applying().carry_out(server, user, info, make).await?
            }
            patch => {
                let make = |current: &Value| {
                    let mut scale = patch.apply(info.kind, &scale_of(&paths, current))?;
                    body::conform_to(&mut scale, SCALE)?;
                    set(current, &scale)
                };
                change.carry_out(server, user, info, make).await?
            }
        }
    } else {
        let sent = body::of_type(request, SCALE).await?;
        change.carry_out(server, user, info, |current| set(current, &sent)).await?
    };
    let object: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(response::json(200, &scale_of(&paths, &object)))
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

/// Gives a pod its node, once.
pub async fn bind(server: &Arc<ApiServer>, user: &User, info: &Info, binding: &Value) -> Result<Bytes, Status> {
    let node = binding.str_at(&["target", "name"]).to_string();
    if node.is_empty() {
        let cause = apimachinery::Cause::required("target.name", "");
        return Err(kinds::BINDINGS.invalid(&info.path.name, vec![cause]));
    }
    let uid = binding.uid().to_string();
    external::admit(server, &attempt(user, info, "CREATE", body::dry_run(&info.query)?), binding).await?;
    let mut change = Change::to(Target::Binding, info)?;
    change.admitted = true;
    let make = |current: &Value| {
        let refuse = |why: String| Status::conflict("", "pods/binding", &info.path.name, &why);
        if current.is_deleting() {
            return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", info.path.name)));
        }
        let bound = current.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(refuse(format!("pod {} is already assigned to node {bound:?}", info.path.name)));
        }
        if !current.array_at(&["spec", "schedulingGates"]).is_empty() {
            return Err(refuse(format!("pod {} has non-empty .spec.schedulingGates", info.path.name)));
        }
        if !uid.is_empty() && uid != current.uid() {
            return Err(refuse(format!("the UID in the binding ({uid}) is not that of the pod")));
        }
        let mut new = current.clone();
        new["spec"]["nodeName"] = node.as_str().into();
        set_condition(
            &mut new,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": clock::now_rfc3339()}),
        );
        let annotations = binding.at(&["metadata", "annotations"]).as_object().into_iter().flatten();
        let annotations: Vec<(&String, &Value)> = annotations.filter(|(_, value)| value.is_string()).collect();
        if !annotations.is_empty() {
            let mut all = current["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
            all.extend(annotations.into_iter().map(|(key, value)| (key.clone(), value.clone())));
            new.set_meta("annotations", all);
        }
        Ok(new)
    };
    change.carry_out(server, user, info, make).await
}

/// What policies and webhooks are asked about a subresource whose body isn't kept.
fn attempt<'a>(user: &'a User, info: &'a Info, operation: &'static str, dry_run: bool) -> Attempt<'a> {
    Attempt {
        user,
        kind: info.kind,
        subresource: info.subresource,
        operation,
        name: &info.path.name,
        namespace: &info.path.namespace,
        old: None,
        dry_run,
    }
}

/// Asks policies and webhooks whether a stream or a proxy may be opened; its options stand in the query.
pub async fn admit_connection(server: &Arc<ApiServer>, user: &User, info: &Info) -> Result<(), Status> {
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
    external::admit(server, &attempt(user, info, "CONNECT", false), &options).await.map(|_| ())
}

fn set_condition(object: &mut Value, condition: Value) {
    let status = object.child_mut("status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}

async fn evict(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let eviction = body::of_type(request, "io.k8s.api.policy.v1.Eviction").await?;
    if !eviction.name().is_empty() && eviction.name() != info.path.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = delete::Options::from_json(&eviction["deleteOptions"], &info.query)?;
    external::admit(server, &attempt(user, info, "CREATE", options.dry_run), &eviction).await?;
    let pod = super::read::resource(server, info.kind)?.get(&info.key()).ok_or_else(|| info.not_found())?.parse();
    // Before the budget pays for it.
    delete::check_preconditions(info.kind, &info.path.name, &pod, &options)?;
    grant_disruption(server, info, options.dry_run).await?;
    if !options.dry_run && !pod.is_deleting() {
        let mut change = Change::to(Target::Everything, info)?;
        change.admitted = true;
        let told = |current: &Value| {
            let mut new = current.clone();
            set_condition(
                &mut new,
                json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": clock::now_rfc3339()}),
            );
            Ok(new)
        };
        change.carry_out(server, user, info, told).await?;
    }
    // The pod's version is another one now, by the condition.
    let options = delete::Options { resource_version: String::new(), ..options };
    delete::delete(server, user, info.kind, &info.path.namespace, &info.path.name, &options).await?;
    Ok(response::json(201, &created()))
}

/// No budget keeps more evictions in mind that its controller hasn't seen.
const MAX_DISRUPTED: usize = 2000;

/// Takes the eviction from the budget that covers the pod; a pod of a budget that allows none stays.
async fn grant_disruption(server: &ApiServer, info: &Info, dry_run: bool) -> Result<(), Status> {
    let entry = server.cache.of(kinds::PODS).get(&info.key()).ok_or_else(|| info.not_found())?;
    let pod = entry.parse();
    let over = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending");
    if over || pod.is_deleting() {
        return Ok(());
    }
    let filter = crate::object::Filter { namespace: info.path.namespace.clone(), ..Default::default() };
    let budgets = server.cache.of(kinds::POD_DISRUPTION_BUDGETS);
    let covers = |budget: &Value| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null() && LabelSelector::from_json(selector).is_ok_and(|s| s.matches(|k| entry.label(k)))
    };
    let mut covering: Vec<_> = budgets.list(&filter).0.into_iter().filter(|e| covers(&e.parse())).collect();
    let Some(found) = covering.pop() else { return Ok(()) };
    if !covering.is_empty() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::internal(text));
    }
    let conditions = pod.array_at(&["status", "conditions"]);
    let healthy = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    loop {
        let Some(entry) = budgets.get(&found.key) else { return Ok(()) };
        let mut budget = entry.parse();
        let count = |key: &str| budget.i64_at(&["status", key]).unwrap_or(0);
        let enough = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if !healthy && (always || enough) {
            return Ok(());
        }
        let refuse = |seconds: u32, message: String| {
            let mut status =
                Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", seconds);
            let cause = json!({"reason": "DisruptionBudget", "message": message});
            status.details.get_or_insert_default()["causes"] = json!([cause]);
            Err(status)
        };
        let name = budget.name();
        if count("observedGeneration") < budget.i64_at(&["metadata", "generation"]).unwrap_or(0) {
            return refuse(10, format!("The disruption budget {name} is still being processed by the server."));
        }
        if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
            let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(budgets.kind.forbidden(name, why));
        }
        if count("disruptionsAllowed") < 1 {
            let (needs, has) = (count("desiredHealthy"), count("currentHealthy"));
            return refuse(
                0,
                format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
            );
        }
        if dry_run {
            return Ok(());
        }
        budget["status"]["disruptionsAllowed"] = (count("disruptionsAllowed") - 1).into();
        budget["status"]["disruptedPods"][&info.path.name] = clock::now_rfc3339().into();
        let key = store_key(budgets.kind, &entry.key).into();
        let write = Write::Update { key, value: encode(&budget), expected: entry.revision };
        match commit(server, budgets.kind, budget.name(), write).await {
            // Another eviction was faster: look again.
            Err(status) if status.reason == "Conflict" => {}
            done => return done.map(|_| ()),
        }
    }
}
