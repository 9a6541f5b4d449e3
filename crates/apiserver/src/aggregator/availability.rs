//! Whether further API servers are there (the condition `Available` of APIServices), and what they serve.

use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status, clock};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, header};
use serde_json::{Value, json};

use super::{Served, destination, metrics, routes, set_user_headers};
use crate::ApiServer;
use crate::authentication::{MASTERS, User};
use crate::pipeline::WriteRequest;
use crate::registry::{Filter, WatchStart};
use crate::response;

/// How often availability is checked though nothing changed.
const AVAILABILITY_PERIOD: Duration = Duration::from_secs(30);
/// How long a server may take to say what it serves.
const AVAILABILITY_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers that are asked at a time, so that silent ones don't delay others for long.
const PARALLEL_CHECKS: usize = 8;
/// The largest list of resources that is read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Keeps the conditions of all APIServices and the list of what they serve, until the server is gone.
pub async fn run(server: Weak<ApiServer>) {
    let subscribe = |server: &ApiServer, kind: &'static Kind| {
        let present = server.cache.revision();
        server.cache.of(kind).subscribe(Filter::default(), WatchStart::Now, present).ok().map(|s| s.events)
    };
    let Some(alive) = server.upgrade() else { return };
    let services = subscribe(&alive, kinds::API_SERVICES);
    let slices = subscribe(&alive, kinds::ENDPOINT_SLICES);
    drop(alive);
    let (Some(mut services), Some(mut slices)) = (services, slices) else { return };
    loop {
        let Some(alive) = server.upgrade() else { return };
        check_all(&alive).await;
        let idle = routes(&alive).services.is_empty();
        drop(alive);
        let changed = tokio::time::timeout(AVAILABILITY_PERIOD, async {
            // Endpoints matter only if there is a service that has them.
            tokio::select! {
                change = services.recv() => change.is_some(),
                change = slices.recv(), if !idle => change.is_some(),
            }
        });
        if changed.await == Ok(false) {
            // Fell behind; begin again.
            let Some(alive) = server.upgrade() else { return };
            let again = (subscribe(&alive, kinds::API_SERVICES), subscribe(&alive, kinds::ENDPOINT_SLICES));
            let (Some(s), Some(e)) = again else { return };
            (services, slices) = (s, e);
        }
        while idle && slices.try_recv().is_some() {}
    }
}

/// Why requests for an APIService are refused, as its condition says; none when it is available.
pub fn unavailable(service: &Value) -> Option<Status> {
    let condition = service.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available");
    if condition.is_some_and(|c| c["status"] == "True") {
        return None;
    }
    let why = condition.map_or("it wasn't checked yet", |c| c.str_at(&["message"]));
    Some(Status::unavailable(format!("service unavailable: {why}")))
}

/// What a check found of an APIService.
struct Checked {
    service: Value,
    /// What is served, unless this server's own kinds are all there is.
    served: Option<Served>,
    reason: &'static str,
    message: String,
    ok: bool,
}

async fn check_all(server: &Arc<ApiServer>) {
    let services = server.cache.of(kinds::API_SERVICES).list(&Filter::default()).0;
    let checks = services.into_iter().map(|entry| check(server, entry.parse()));
    let checked: Vec<Checked> = futures::stream::iter(checks).buffer_unordered(PARALLEL_CHECKS).collect().await;
    let served = checked.iter().filter_map(|one| Some((group_version(&one.service), one.served.clone()?))).collect();
    // Before the conditions: a client that waits for one finds the group in discovery.
    server.aggregator.replace(served);
    for Checked { service, reason, message, ok, .. } in checked {
        set_condition(server, &service, ok, reason, &message).await;
    }
}

fn group_version(service: &Value) -> (String, String) {
    (service.str_at(&["spec", "group"]).into(), service.str_at(&["spec", "version"]).into())
}

async fn check(server: &Arc<ApiServer>, service: Value) -> Checked {
    let (group, version) = group_version(&service);
    if !service.at(&["spec", "service"]).is_object() {
        let is_metrics = (group.as_str(), version.as_str()) == (metrics::GROUP, metrics::VERSION);
        let served = is_metrics.then(|| Served { resources: metrics::resources(), is_current: true });
        let message = "Local APIServices are always available".to_string();
        return Checked { service, served, reason: "Local", message, ok: true };
    }
    match resources(server, &service, &group, &version).await {
        Ok(resources) => {
            let served = Some(Served { resources, is_current: true });
            Checked { service, served, reason: "Passed", message: "all checks passed".into(), ok: true }
        }
        Err((reason, message)) => {
            let before = server.aggregator.last_served(group, version);
            Checked { service, served: Some(Served { is_current: false, ..before }), reason, message, ok: false }
        }
    }
}

/// What another server serves of a group and version.
async fn resources(
    server: &Arc<ApiServer>,
    service: &Value,
    group: &str,
    version: &str,
) -> Result<Vec<Value>, (&'static str, String)> {
    let reason = |status: &Status| match status.reason {
        "NotFound" => "ServiceNotFound",
        "ServiceUnavailable" => "MissingEndpoints",
        _ => "FailedDiscoveryCheck",
    };
    let destination = destination(server, service).map_err(|status| (reason(&status), status.message))?;
    let ask = async {
        let mut request = Request::get(format!("/apis/{group}/{version}"))
            .header(header::HOST, destination.tls.as_ref().map_or("", |(_, name)| name))
            .header(header::ACCEPT, "application/json")
            .body(response::full(Bytes::new()))
            .map_err(|e| e.to_string())?;
        set_user_headers(request.headers_mut(), &User::new("system:kube-aggregator", &[MASTERS]));
        let answer = destination.send(request).await.map_err(|s| s.message)?;
        let code = answer.status();
        let body = bounded::body(answer.into_body(), MAX_DOCUMENT_BYTES).await.map_err(|e| e.to_string())?;
        if !code.is_success() {
            return Err(format!("bad status from {}: {code}", destination.description));
        }
        let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        Ok(list.array_at(&["resources"]).to_vec())
    };
    let answer = tokio::time::timeout(AVAILABILITY_TIMEOUT, ask).await;
    answer.unwrap_or_else(|_| Err("no answer came in time".into())).map_err(|why| {
        let why = format!("failing or missing response from {}: {why}", destination.description);
        ("FailedDiscoveryCheck", why)
    })
}

async fn set_condition(server: &Arc<ApiServer>, service: &Value, ok: bool, reason: &str, message: &str) {
    let status = if ok { "True" } else { "False" };
    let present = service.array_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available");
    if present.is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message) {
        return;
    }
    let since = present.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| clock::now_rfc3339().into())});
    let write = WriteRequest::by_server(server, kinds::API_SERVICES, "", service.name()).for_status();
    let written = write.update(|current| {
        let mut new = current.clone();
        new["status"]["conditions"] = json!([condition]);
        Ok(new)
    });
    if let Err(error) = written.await {
        tracing::debug!(%error, name = service.name(), "failed to update the status of an APIService");
    }
}
