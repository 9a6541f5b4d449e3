//! How long pods take.

use std::time::Instant;

use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::Figure;

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    let pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"]}]}});
    Ok(serde_json::from_value(pod)?)
}

/// Creates a pod, and returns the seconds until it was ready.
pub async fn until_ready(client: &Client, pod: Pod) -> anyhow::Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let name = pod.metadata.name.clone().unwrap_or_default();
    let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
    let version = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = std::pin::pin!(pods.watch(&watch, &version).await?);
    let begun = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && is_ready(&pod)
        {
            break;
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds from the POST of a plain pod until it was ready.
pub async fn start_and_keep(client: &Client, name: &str) -> anyhow::Result<f64> {
    until_ready(client, pod(name)?).await
}

/// The same of one that goes again.
pub async fn start(client: &Client, name: &str) -> anyhow::Result<f64> {
    let took = start_and_keep(client, name).await?;
    Api::<Pod>::namespaced(client.clone(), "default").delete(name, &DeleteParams::default()).await?;
    Ok(took)
}

pub async fn latency(client: Client) -> anyhow::Result<Figure> {
    let mut times = Vec::new();
    for i in 0..21 {
        times.push(start(&client, &format!("bench-{i}")).await?);
    }
    times.sort_by(f64::total_cmp);
    let value = times[times.len() / 2];
    Ok(Figure { what: "pod POST to Ready, p50", value, unit: "s", promise: Some(0.1), less: true })
}

pub async fn burst(client: Client) -> anyhow::Result<Figure> {
    let api: Api<Deployment> = Api::namespaced(client, "default");
    let labels = json!({"app": "burst"});
    let deployment: Deployment =
        serde_json::from_value(json!({"metadata": {"name": "burst"}, "spec": {"replicas": 50,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox:1.28", "command": ["sleep", "3600"]}]}}}}))?;
    let version = api.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await?);
    let begun = Instant::now();
    api.create(&PostParams::default(), &deployment).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Modified(deployment) = event
            && deployment.status.and_then(|s| s.ready_replicas) == Some(50)
        {
            break;
        }
    }
    let value = begun.elapsed().as_secs_f64();
    api.delete("burst", &DeleteParams::background()).await?;
    Ok(Figure { what: "50 pods of one Deployment all Ready", value, unit: "s", promise: Some(1.2), less: true })
}
