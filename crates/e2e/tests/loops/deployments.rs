//! ReplicaSets and Deployments.

use serde_json::json;

use crate::cluster::{Cluster, condition, name};

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

pub fn web(replicas: i32, more: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, \
         template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: one}}]}}}}{more}}}}}"
    )
}

#[tokio::test(start_paused = true)]
async fn deployment_comes_up() {
    let cluster = Cluster::start(2).await;
    cluster.create(&web(3, "")).await;
    let web = cluster.until(WEB, |d| d["status"]["availableReplicas"] == 3).await;
    assert_eq!(condition(&web, "Available").0, "True");
    let told = cluster.events("web").await;
    println!("{told:#?}");
    let _ = (json!({}), name(&web));
}
