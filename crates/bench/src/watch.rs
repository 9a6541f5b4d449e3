//! What watching and keeping many objects costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::Figure;

const WRITERS: usize = 8;

async fn namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?).await?;
    Ok(())
}

async fn list_bytes(client: &Client, namespace: &str) -> anyhow::Result<usize> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let request = kube::core::Request::new(path).list(&Default::default())?;
    Ok(client.request_text(request).await?.len())
}

/// Memory that 10,000 small objects take, in multiples of their JSON.
pub async fn memory(config: &Config, processes: &[u32]) -> anyhow::Result<Figure> {
    let client = Client::try_from(config.clone())?;
    namespace(&client, "memory").await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "memory");
    let before = crate::usage(processes)?.0;
    for chunk in 0..200 {
        let creations = (0..50).map(|n| {
            let object = json!({"metadata": {"name": format!("m-{chunk}-{n}"), "labels": {"app": "memory"}},
                                "data": {"key": "value", "other": "x".repeat(200)}});
            let api = api.clone();
            async move { api.create(&PostParams::default(), &serde_json::from_value(object).unwrap_or_default()).await }
        });
        futures::future::try_join_all(creations).await?;
    }
    let json = list_bytes(&client, "memory").await? as f64 / 1048576.0;
    // What was needed for a moment has been given back by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let value = (crate::usage(processes)?.0 - before) / json;
    Ok(Figure { what: "memory of 10,000 small objects", value, unit: "× their JSON", promise: Some(3.0), less: true })
}

/// So many watchers, and updates of each of eight objects.
pub struct Crowd {
    pub namespace: &'static str,
    pub watchers: usize,
    pub updates: u64,
}

/// Events that reach all of many watchers in a second. They are counted, not decoded, which would measure the client.
pub async fn events(config: &Config, crowd: &Crowd) -> anyhow::Result<f64> {
    let client = Client::try_from(config.clone())?;
    let Crowd { namespace: name, watchers: count, updates } = *crowd;
    namespace(&client, name).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), name);
    for i in 0..WRITERS {
        let object = json!({"metadata": {"name": format!("w-{i}")}, "data": {"k": "x".repeat(850)}});
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    let seen = Arc::new(AtomicU64::new(0));
    let mut watchers = Vec::new();
    for _ in 0..count {
        let (client, seen) = (Client::try_from(config.clone())?, seen.clone());
        watchers.push(tokio::spawn(async move {
            let request =
                http::Request::get(format!("/api/v1/namespaces/{name}/configmaps?watch=true")).body(Vec::new())?;
            let mut stream = client.request_stream(request).await?;
            let mut buffer = vec![0u8; 64 << 10];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return anyhow::Ok(());
                }
                let lines = buffer[..n].iter().filter(|b| **b == b'\n').count();
                seen.fetch_add(lines as u64, Ordering::Relaxed);
            }
        }));
    }
    let reaches = |count: u64| {
        let seen = seen.clone();
        async move {
            while seen.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let first = (count * WRITERS) as u64;
    tokio::time::timeout(Duration::from_secs(60), reaches(first)).await?;
    let begun = Instant::now();
    let writers = (0..WRITERS).map(|i| {
        let config = config.clone();
        tokio::spawn(async move {
            let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, name);
            for n in 0..updates {
                let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
                api.patch(&format!("w-{i}"), &PatchParams::default(), &patch).await?;
            }
            Ok::<_, kube::Error>(())
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer??;
    }
    let all = first + updates * (count * WRITERS) as u64;
    tokio::time::timeout(Duration::from_secs(60), reaches(all)).await?;
    let value = (all - first) as f64 / begun.elapsed().as_secs_f64();
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(value)
}
