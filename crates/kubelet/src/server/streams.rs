//! Exec and attach: a client's request, handed to the runtime that has the container.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::channels::open;
use super::{Body, Server, flag, query, refused};
use crate::container_runtime::{PodContainers, StreamError};
use crate::spec;
use crate::state::ContainerState;
use crate::streaming::Wants;

/// Why a command can't be run in a container.
#[derive(Debug, thiserror::Error)]
enum NotRunning {
    #[error("pod {0:?} isn't on this node")]
    NoPod(String),
    #[error("container not found (\"{0}\"): it isn't running")]
    NoContainer(String),
}

/// A pod's containers, the id of a running one, and whether it has a terminal.
fn running(
    server: &Server,
    namespace: &str,
    pod: &str,
    name: &str,
) -> Result<(Arc<dyn PodContainers>, String, bool), NotRunning> {
    let (object, dirs, saved) = server.pods.find(namespace, pod).ok_or_else(|| NotRunning::NoPod(pod.into()))?;
    let run = saved.containers.get(name).filter(|r| matches!(r.phase, ContainerState::Running { .. }));
    let run = run.ok_or_else(|| NotRunning::NoContainer(name.into()))?;
    let ephemeral = spec::ephemeral(&object);
    let mut all = object.spec.iter().flat_map(spec::started).chain(&ephemeral);
    let tty = all.find(|c| c.name == name).and_then(|c| c.tty).unwrap_or(false);
    Ok((server.runtime.containers(&dirs, saved.sandbox.as_ref()), run.id.clone(), tty))
}

/// Runs a command in a container.
pub async fn exec(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let query = query(&request);
    let command: Vec<String> = query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "you must specify at least one command for the container");
    }
    let (containers, id, _) = match running(server, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return refused(StatusCode::NOT_FOUND, error.to_string()),
    };
    open(request, wants(&query), move |events, sender| async move {
        let result = containers.exec(&id, &command, wants(&query), events, &sender).await;
        sender.finish(&result.unwrap_or_else(|error| failure(&error))).await;
    })
}

fn wants(query: &[(String, String)]) -> Wants {
    let flag = |name| flag(query, name);
    Wants { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), tty: flag("tty") }
}

fn failure(error: &StreamError) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": error.to_string(), "reason": "InternalError", "code": 500})
}

/// Joins the client to a container's own process.
pub async fn attach(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let query = query(&request);
    let (containers, id, tty) = match running(server, namespace, pod, container) {
        Ok(found) => found,
        Err(error) => return refused(StatusCode::NOT_FOUND, error.to_string()),
    };
    // What the container has counts, not what the client believes.
    let wants = Wants { tty, ..wants(&query) };
    open(request, wants, move |events, sender| async move {
        match containers.attach(&id, wants, events, &sender).await {
            Ok(()) => sender.finish(&json!({"metadata": {}, "status": "Success"})).await,
            Err(error) => sender.finish(&failure(&error)).await,
        }
    })
}
