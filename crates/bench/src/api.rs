//! Requests a second. Client and server share the machine's cores, so the server alone could do more.

use std::time::{Duration, Instant};

use futures::AsyncReadExt as _;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::Figure;

const SPAN: Duration = Duration::from_secs(5);

/// How often `clients` at a time get `work` done in a second. Each has a connection of its own.
async fn rate<F>(
    config: &Config,
    clients: usize,
    work: impl Fn(Client, usize, u64) -> F + Clone + Send + 'static,
) -> anyhow::Result<f64>
where
    F: Future<Output = Result<(), kube::Error>> + Send,
{
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for i in 0..clients {
        let (client, work) = (Client::try_from(config.clone())?, work.clone());
        tasks.push(tokio::spawn(async move {
            let mut count = 0u64;
            while begun.elapsed() < SPAN {
                work(client.clone(), i, count).await?;
                count += 1;
            }
            Ok::<_, kube::Error>(count)
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

fn map(name: &str) -> ConfigMap {
    let object = json!({"metadata": {"name": name}, "data": {"k": "x".repeat(850)}});
    serde_json::from_value(object).unwrap_or_default()
}

fn api(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, "default")
}

pub async fn measure(config: &Config) -> anyhow::Result<Vec<Figure>> {
    let figure = |what, value, promise| Figure { what, value, unit: "/s", promise: Some(promise), less: false };
    let creates = rate(config, 16, |client, i, n| async move {
        api(client).create(&PostParams::default(), &map(&format!("c-{i}-{n}"))).await.map(|_| ())
    })
    .await?;
    let updates = rate(config, 16, |client, i, n| async move {
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        api(client).patch(&format!("c-{i}-0"), &PatchParams::default(), &patch).await.map(|_| ())
    })
    .await?;
    let gets =
        rate(config, 16, |client, i, _| async move { api(client).get(&format!("c-{i}-0")).await.map(|_| ()) }).await?;
    // A namespace with exactly 5,000 objects. The answer is read whole but not decoded, which would measure the client.
    let client = Client::try_from(config.clone())?;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "many"}}))?).await?;
    let many: Api<ConfigMap> = Api::namespaced(client, "many");
    for chunk in 0..50 {
        let creations = (0..100).map(|n| {
            let (api, object) = (many.clone(), map(&format!("m-{chunk}-{n}")));
            async move { api.create(&PostParams::default(), &object).await }
        });
        futures::future::try_join_all(creations).await?;
    }
    let lists = rate(config, 4, |client, _, _| async move {
        let request = kube::core::Request::new("/api/v1/namespaces/many/configmaps")
            .list(&Default::default())
            .map_err(kube::Error::BuildRequest)?;
        client.request_text(request).await.map(|_| ())
    })
    .await?;
    // The same list in protobuf, and applies that change one field of an object of one's own.
    let in_protobuf = rate(config, 4, |client, _, _| async move {
        let request = http::Request::get("/api/v1/namespaces/many/configmaps")
            .header("accept", "application/vnd.kubernetes.protobuf")
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        let mut body = client.request_stream(request).await?;
        let mut buffer = vec![0u8; 64 << 10];
        while body.read(&mut buffer).await.map_err(kube::Error::ReadEvents)? > 0 {}
        Ok(())
    })
    .await?;
    let applies = rate(config, 16, |client, i, n| async move {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("a-{i}")},
            "data": {"k": "x".repeat(850), "n": n.to_string()}});
        api(client).patch(&format!("a-{i}"), &PatchParams::apply("bench"), &Patch::Apply(object)).await.map(|_| ())
    })
    .await?;
    let unpromised = |what, value| Figure { what, value, unit: "/s", promise: None, less: false };
    Ok(vec![
        unpromised("lists of 5,000 × 1 KB in protobuf, 4 clients", in_protobuf),
        unpromised("server-side applies, 16 clients", applies),
        figure("creates, 1 KB, 16 clients", creates, 5000.0),
        figure("updates, 16 clients", updates, 5000.0),
        figure("gets, 16 clients", gets, 20000.0),
        figure("lists of 5,000 × 1 KB, 4 clients", lists, 200.0),
    ])
}
