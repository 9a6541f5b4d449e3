//! What many pods on many nodes cost the control plane. The nodes only pretend.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use serde_json::json;
use testkit::fake;

use crate::{Figure, usage};

const NODES: usize = 1000;
const PODS: i32 = 10_000;
const SETTLED: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(40);

/// A Deployment of many pods until all are available; then memory and processor time while nothing happens.
pub async fn measure(config: &Config, processes: &[u32]) -> anyhow::Result<Vec<Figure>> {
    let client = Client::try_from(config.clone())?;
    let nodes = fake::nodes(client.clone(), "fake", NODES).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = usage(processes)?.0;
    let api: Api<Deployment> = Api::namespaced(client, "default");
    let labels = json!({"app": "many"});
    let deployment = json!({"metadata": {"name": "many"}, "spec": {"replicas": PODS, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"nodeSelector": {"testkit/fake": "true"}, "containers": [{"name": "c", "image": "fake",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}}}});
    let begun = Instant::now();
    api.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    loop {
        let status = api.get("many").await?.status.unwrap_or_default();
        let available = status.available_replicas.unwrap_or(0);
        if available == PODS {
            break;
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(600), "only {available} pods are available");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    // What is put off (memory that is given back, endpoints, events) is done by then.
    tokio::time::sleep(SETTLED).await;
    let after = usage(processes)?;
    tokio::time::sleep(QUIET).await;
    let later = usage(processes)?;
    nodes.abort();
    let figure = |what, value, unit, promise| Figure { what, value, unit, promise, less: true };
    let idle = (later.1 - after.1) / QUIET.as_secs_f64() * 100.0;
    Ok(vec![
        figure("10,000 simulated pods of one Deployment all available", took, "s", None),
        figure("memory per pod in the control plane", (after.0 - before) * 1024.0 / f64::from(PODS), "KB", Some(20.0)),
        figure("idle CPU with 10,000 pods on 1,000 nodes", idle, "% of a core", Some(3.0)),
    ])
}
