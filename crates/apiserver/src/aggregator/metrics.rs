//! `metrics.k8s.io/v1beta1`: the recent usage of nodes and pods, for `kubectl top` and autoscalers. Each request asks the
//! kubelets; nothing is kept here. An APIService of the group with a service (as metrics-server brings it) replaces this one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Kind, kinds};
use apimachinery::{ObjectExt as _, Status, clock};
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, header};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::egress::kubelet;
use crate::registry::{Entry, object_key};
use crate::request::{Query, ResourcePath};
use crate::response::{self, Body};

/// The group of resource metrics.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
/// How long a kubelet may take; its first rate takes it a second.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_SUMMARY_BYTES: usize = 64 << 20;

/// The group's resources, as discovery lists them.
pub fn resources() -> Vec<Value> {
    let resource = |of: &Kind, kind: &str| json!({"name": of.plural(), "singularName": "", "namespaced": of.namespaced, "kind": kind, "verbs": ["get", "list"]});
    vec![resource(kinds::NODES, "NodeMetrics"), resource(kinds::PODS, "PodMetrics")]
}

/// Answers a path of the group. Its user was authorized before.
///
/// # Errors
/// 404 for other resources, and for a node or pod whose kubelet doesn't answer; 405 for watches.
pub async fn answer(server: &Arc<ApiServer>, path: &ResourcePath, query: &Query) -> Result<Response<Body>, Status> {
    if query.flag("watch") {
        return Err(Status::method_not_allowed());
    }
    // What is measured is called as it is in the core group.
    let of = [kinds::NODES, kinds::PODS]
        .into_iter()
        .find(|kind| kind.is_named("", &path.plural))
        .ok_or_else(Status::no_route)?;
    let value = match (of == kinds::NODES, path.name.as_str()) {
        (true, "") => list("NodeMetricsList", nodes(server, &selected(server, of, path, query)?).await),
        (false, "") => list("PodMetricsList", pods(server, &selected(server, of, path, query)?).await),
        (true, name) => {
            let entry = server.cache.of(kinds::NODES).get(name);
            let found = nodes(server, &entry.into_iter().collect::<Vec<_>>()).await;
            found.into_iter().next().ok_or_else(|| Status::not_found(GROUP, "nodemetrics", name))?
        }
        (false, name) => {
            let key = object_key(&path.namespace, name);
            let entry = server.cache.of(kinds::PODS).get(&key);
            let found = pods(server, &entry.into_iter().collect::<Vec<_>>()).await;
            found.into_iter().next().ok_or_else(|| Status::not_found(GROUP, "podmetrics", &key))?
        }
    };
    Ok(response::json(200, &value))
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items})
}

fn selected(
    server: &ApiServer,
    kind: &'static Kind,
    path: &ResourcePath,
    query: &Query,
) -> Result<Vec<Arc<Entry>>, Status> {
    let resource = server.cache.of(kind);
    let filter = query.filter(kind, &path.namespace)?;
    Ok(resource.list(&filter).0)
}

/// What the kubelet of a node says; `None` if it can't be asked.
async fn stats(server: &ApiServer, node: &str) -> Option<Value> {
    let ask = async {
        let destination = kubelet::destination(server, node)?;
        let request = Request::get("/stats/summary")
            .header(header::HOST, destination.host.as_str())
            .body(response::full(Bytes::new()))
            .map_err(Status::internal)?;
        let answer = destination.send(request).await?;
        if !answer.status().is_success() {
            return Err(Status::internal(format!("it answered {}", answer.status())));
        }
        let body = bounded::body(answer.into_body(), MAX_SUMMARY_BYTES).await.map_err(Status::internal)?;
        serde_json::from_slice(&body).map_err(Status::internal)
    };
    match tokio::time::timeout(KUBELET_TIMEOUT, ask).await {
        Ok(Ok(stats)) => Some(stats),
        Ok(Err(status)) => {
            tracing::debug!(node, why = status.message, "failed to get metrics from a kubelet");
            None
        }
        Err(_) => None,
    }
}

fn usage(of: &Value) -> Value {
    let cpu = of["cpu"]["usageNanoCores"].as_u64().unwrap_or(0);
    let memory = of["memory"]["workingSetBytes"].as_u64().unwrap_or(0);
    json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)})
}

fn window(of: &Value) -> String {
    format!("{}s", (of["cpu"]["windowSeconds"].as_f64().unwrap_or(1.0).round() as u64).max(1))
}

fn metrics(kind: &str, entry: &Entry, of: &Value) -> Value {
    let labels: BTreeMap<&str, &str> = entry.labels.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
    let now = clock::now_rfc3339();
    let mut metadata = json!({"name": entry.name(), "creationTimestamp": now, "labels": labels});
    if !entry.namespace().is_empty() {
        metadata["namespace"] = entry.namespace().into();
    }
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": of["cpu"]["time"].as_str().map_or(now, String::from), "window": window(of)})
}

async fn nodes(server: &ApiServer, entries: &[Arc<Entry>]) -> Vec<Value> {
    let of = |entry: &Arc<Entry>| {
        let entry = entry.clone();
        async move {
            let stats = stats(server, entry.name()).await?;
            let mut value = metrics("NodeMetrics", &entry, &stats["node"]);
            value["usage"] = usage(&stats["node"]);
            Some(value)
        }
    };
    join_all(entries.iter().map(of)).await.into_iter().flatten().collect()
}

async fn pods(server: &ApiServer, entries: &[Arc<Entry>]) -> Vec<Value> {
    let kind = server.cache.of(kinds::PODS).kind;
    let node_of = |entry: &Arc<Entry>| entry.field(kind, "spec.nodeName").to_string();
    let running: Vec<&Arc<Entry>> = entries.iter().filter(|e| e.field(kind, "status.phase") == "Running").collect();
    let nodes: BTreeSet<String> = running.iter().map(|e| node_of(e)).filter(|n| !n.is_empty()).collect();
    let told = join_all(nodes.iter().map(|node| stats(server, node))).await;
    let mut of_pods: BTreeMap<(String, String), Value> = BTreeMap::new();
    for stats in told.into_iter().flatten() {
        for pod in stats.array_at(&["pods"]) {
            let reference = &pod["podRef"];
            let key = (reference.str_at(&["namespace"]).to_string(), reference.str_at(&["name"]).to_string());
            of_pods.insert(key, pod.clone());
        }
    }
    let of = |entry: &&Arc<Entry>| {
        let pod = of_pods.get(&(entry.namespace().to_string(), entry.name().to_string()))?;
        let containers = pod.array_at(&["containers"]);
        let mut value = metrics("PodMetrics", entry, pod);
        let containers = containers.iter().map(|c| json!({"name": c["name"], "usage": usage(c)}));
        value["containers"] = containers.collect();
        Some(value).filter(|v| !v.array_at(&["containers"]).is_empty())
    };
    running.iter().filter_map(of).collect()
}
