//! Deletion: graceful for pods, through finalizers where there are some, at once otherwise.

use std::sync::Arc;

use apimachinery::bounded::Limits;
use apimachinery::{ObjectExt as _, Status, clock};
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::Write;

use api::Kind;
use api::kinds::Dependents;

use super::body;
use super::read::resource;
use super::write::{commit, success};
use crate::ApiServer;
use crate::auth::User;
use crate::cache::{object_key, store_key};
use crate::convert;
use crate::external::{self, Attempt};
use crate::object::encode;
use crate::request::{Info, Query};
use crate::response::{self, Body};
use crate::strategy;

/// `metav1.DeleteOptions`, as far as they matter here.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub grace: Option<i64>,
    pub propagation: String,
    pub uid: String,
    pub resource_version: String,
    pub dry_run: bool,
}

impl Options {
    async fn read(request: Request<Body>, query: &Query) -> Result<Self, Status> {
        let empty = http_body::Body::is_end_stream(request.body());
        let value = if empty {
            Value::Null
        } else {
            let bytes = body::read(request).await?;
            if bytes.is_empty() {
                Value::Null
            } else if bytes.starts_with(b"k8s\0") {
                let malformed = |e| Status::bad_request(format!("the delete options can't be read: {e}"));
                api::protobuf::decode(&bytes).map_err(malformed)?
            } else {
                // kubectl sends JSON; client-go's typed clients may send it as YAML does, which is a superset.
                let document = apimachinery::yaml::first(&bytes, Limits::REQUEST);
                document.map_err(|e| Status::bad_request(format!("the delete options can't be read: {e}")))?.value
            }
        };
        Self::from_json(&value, query)
    }

    pub fn from_json(value: &Value, query: &Query) -> Result<Self, Status> {
        let grace = match value.i64_at(&["gracePeriodSeconds"]) {
            Some(grace) => Some(grace),
            None => query.number("gracePeriodSeconds")?,
        };
        let propagation = match value.str_at(&["propagationPolicy"]) {
            "" => query.get("propagationPolicy"),
            policy => policy,
        };
        if !matches!(propagation, "" | "Foreground" | "Background" | "Orphan") {
            let text = format!(
                "DeleteOptions.propagationPolicy: Unsupported value: {propagation:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            );
            return Err(Status::new(422, "Invalid", text));
        }
        let orphans = &value["orphanDependents"];
        if !propagation.is_empty() && !orphans.is_null() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            return Err(Status::new(422, "Invalid", text));
        }
        let propagation = match orphans.as_bool() {
            Some(true) => "Orphan",
            Some(false) => "Background",
            None => propagation,
        };
        Ok(Options {
            // A pod that is to end at once and yet be waited for has a second.
            grace: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation: propagation.into(),
            uid: value.str_at(&["preconditions", "uid"]).into(),
            resource_version: value.str_at(&["preconditions", "resourceVersion"]).into(),
            dry_run: body::dry_run(query)? || value.strings_at(&["dryRun"]).contains(&"All"),
        })
    }
}

pub async fn one(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut options = Options::read(request, &info.query).await?;
    let mut warnings = Vec::new();
    if options.propagation.is_empty()
        && let Dependents::Orphaned(warning) = info.kind.strategy.deletion.dependents
    {
        options.propagation = "Orphan".into();
        warnings.extend(warning.map(String::from));
    }
    let answer = delete(server, user, info.kind, &info.path.namespace, &info.path.name, &options).await?;
    let answer = if answer["kind"] == "Status" { answer } else { convert::object(server, info.kind, answer).await? };
    let mut answer = response::json(200, &answer);
    response::warn(&mut answer, &warnings);
    Ok(answer)
}

pub async fn collection(
    server: &Arc<ApiServer>,
    user: &User,
    info: &Info,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let options = Options::read(request, &info.query).await?;
    let filter = info.query.filter(info.kind, &info.path.namespace)?;
    let (items, _) = resource(server, info.kind)?.list(&filter);
    let mut gone = Vec::new();
    for entry in items {
        match delete(server, user, info.kind, entry.namespace(), entry.name(), &options).await {
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

/// Deletes one object, or marks it for deletion; the answer is what a client gets.
pub async fn delete(
    server: &Arc<ApiServer>,
    user: &User,
    kind: &Kind,
    namespace: &str,
    name: &str,
    options: &Options,
) -> Result<Value, Status> {
    let deletion = &kind.strategy.deletion;
    if let Some(why) = (deletion.refuse)(name) {
        return Err(kind.forbidden(name, why));
    }
    let resource = resource(server, kind)?;
    let object_key = object_key(namespace, name);
    let key: Arc<str> = store_key(kind, &object_key).into();
    loop {
        let entry = resource.get(&object_key).ok_or_else(|| kind.not_found(name))?;
        let old = entry.parse();
        check_preconditions(kind, name, &old, options)?;
        let attempt = Attempt {
            user,
            kind,
            subresource: None,
            operation: "DELETE",
            name,
            namespace,
            old: Some(&old),
            dry_run: options.dry_run,
        };
        // Nothing can be changed about a deletion; it can be refused by either sort.
        external::mutate(server, &attempt, &mut old.clone()).await?;
        external::validate(server, &attempt, &old).await?;
        let mut new = old.clone();
        mark(kind, &mut new, options);
        let finished = strategy::is_finished(kind, &new);
        if options.dry_run {
            return Ok(new);
        }
        let write = if finished {
            Write::Delete { key: key.clone(), expected: entry.revision }
        } else if new == old {
            return Ok(old);
        } else {
            Write::Update { key: key.clone(), value: encode(&new), expected: entry.revision }
        };
        match commit(server, kind, name, write).await {
            Ok(_) if finished => {
                server.services.release(kind, &old);
                return Ok(if deletion.returns_object { new } else { success(kind, &old) });
            }
            Ok(revision) => {
                new.set_meta("resourceVersion", revision.to_string());
                return Ok(new);
            }
            Err(status) if status.reason == "Conflict" => {}
            Err(status) => return Err(status),
        }
    }
}

pub fn check_preconditions(kind: &Kind, name: &str, object: &Value, options: &Options) -> Result<(), Status> {
    let differs = |what: &str, wanted: &str, actual: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
        kind.conflict(name, &why)
    };
    if !options.uid.is_empty() && options.uid != object.uid() {
        return Err(differs("UID", &options.uid, object.uid()));
    }
    if !options.resource_version.is_empty() && options.resource_version != object.resource_version() {
        return Err(differs("ResourceVersion", &options.resource_version, object.resource_version()));
    }
    Ok(())
}

/// Sets what a deletion sets: time, grace and the finalizers of the propagation policy.
fn mark(kind: &Kind, object: &mut Value, options: &Options) {
    let grace = (kind.strategy.deletion.grace_period)(object, options.grace);
    let before = object.i64_at(&["metadata", "deletionGracePeriodSeconds"]);
    // A second deletion may only shorten the time that is left.
    if !object.is_deleting() || before.is_some_and(|b| grace < b) {
        let at = apimachinery::clock::now().checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
        object.set_meta("deletionTimestamp", clock::format_rfc3339(at));
        object.set_meta("deletionGracePeriodSeconds", grace);
        if kind.has_generation
            && let Some(generation) = object.i64_at(&["metadata", "generation"])
        {
            object.set_meta("generation", generation + 1);
        }
    }
    let mut finalizers: Vec<String> =
        object.strings_at(&["metadata", "finalizers"]).into_iter().map(String::from).collect();
    let (foreground, orphan) = ("foregroundDeletion", "orphan");
    match options.propagation.as_str() {
        "Foreground" | "Background" | "Orphan" => {
            finalizers.retain(|f| f != foreground && f != orphan);
            match options.propagation.as_str() {
                "Foreground" => finalizers.push(foreground.into()),
                "Orphan" => finalizers.push(orphan.into()),
                _ => {}
            }
        }
        _ => {}
    }
    if finalizers.is_empty() {
        object.meta_mut().remove("finalizers");
    } else {
        object.set_meta("finalizers", finalizers);
    }
    (kind.strategy.deletion.mark)(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(mut pod: Value, grace: Option<i64>) -> Value {
        mark(api::kinds::PODS, &mut pod, &Options { grace, ..Options::default() });
        pod
    }

    #[test]
    fn grace_is_for_pods_on_nodes_and_can_only_shrink() {
        let running = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let first = marked(running.clone(), None);
        assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 20);
        let shorter = marked(first.clone(), Some(5));
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(marked(shorter, Some(60))["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(marked(json!({"spec": {}}), None)["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}
