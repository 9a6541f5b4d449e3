//! A thousand nodes, ten thousand pods.

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
}
