//! A thousand nodes, ten thousand pods.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const MANY: &str = "/apis/apps/v1/namespaces/default/deployments/many";

#[tokio::test(start_paused = true)]
async fn ten_thousand_pods_on_a_thousand_nodes() {
    let cluster = Cluster::start(1000).await;
    cluster
        .create(
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: many}, spec: {replicas: 10000, selector: {matchLabels: {app: many}}, \
             template: {metadata: {labels: {app: many}}, spec: {containers: [{name: c, image: one, resources: {requests: {cpu: 100m}}}]}}}}",
        )
        .await;
    cluster.until(MANY, |d| d["status"]["availableReplicas"] == 10_000).await;
    let mut on: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for pod in cluster.pods("many").await {
        *on.entry(pod["spec"]["nodeName"].as_str().unwrap().into()).or_default() += 1;
    }
    let (least, most) = (on.values().min().unwrap(), on.values().max().unwrap());
    assert!(on.len() == 1000 && most - least <= 10, "{} nodes with {least} to {most} pods", on.len());
    // Half of them go again, and a tenth of the nodes.
    cluster.patch(MANY, json!({"spec": {"replicas": 5000}})).await;
    cluster.until(MANY, |d| d["status"]["replicas"] == 5000 && d["status"]["availableReplicas"] == 5000).await;
    for i in 0..100 {
        cluster.delete(&format!("/api/v1/nodes/fake-{i}"), Value::Null).await;
    }
    cluster.until(MANY, |d| d["status"]["availableReplicas"] == 5000 && d["status"]["replicas"] == 5000).await;
    let pods = cluster.pods("many").await;
    assert!(pods.iter().all(|p| p["spec"]["nodeName"].as_str().unwrap()[5..].parse::<usize>().unwrap() >= 100));
}
