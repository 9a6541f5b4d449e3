//! HorizontalPodAutoscalers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, condition, name};

const SCALER: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/web";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

async fn up(replicas: i32, metrics: &str, more: &str) -> Cluster {
    let cluster = Cluster::start(2).await;
    cluster
        .create(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, \
             template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: one, resources: {{requests: {{cpu: 100m}}}}}}]}}}}}}}}"
        ))
        .await;
    cluster.until(WEB, |d| d["status"]["availableReplicas"] == replicas).await;
    // Pods that just started tell nothing about their load.
    sleep(Duration::from_secs(400)).await;
    cluster
        .create(&format!(
            "{{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {{name: web}}, spec: {{scaleTargetRef: {{apiVersion: apps/v1, \
             kind: Deployment, name: web}}, minReplicas: 2, maxReplicas: 8, metrics: [{metrics}] {more}}}}}"
        ))
        .await;
    cluster
}

/// Each pod of `web` uses so much.
async fn load(cluster: &Cluster, cpu: &str) {
    let usage = |p: &Value| json!({"metadata": {"name": name(p)}, "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "1Mi"}}]});
    let items: Vec<Value> = cluster.pods("web").await.iter().map(usage).collect();
    cluster.serve_metrics("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", json!({ "items": items }));
}

const CPU: &str = "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}";

#[tokio::test(start_paused = true)]
async fn load_raises_at_once_and_lowers_after_a_while() {
    let cluster = up(2, CPU, "").await;
    load(&cluster, "100m").await;
    // Twice the target.
    let raised = cluster.until(SCALER, |h| h["status"]["desiredReplicas"] == 4).await;
    cluster.until(WEB, |d| d["status"]["availableReplicas"] == 4).await;
    assert_eq!(
        raised["status"]["currentMetrics"][0]["resource"]["current"],
        json!({"averageUtilization": 100, "averageValue": "100m"})
    );
    assert_eq!(condition(&raised, "AbleToScale").1, "SucceededRescale");
    assert_eq!(condition(&raised, "ScalingActive").1, "ValidMetricFound");
    load(&cluster, "10m").await;
    sleep(Duration::from_secs(200)).await;
    load(&cluster, "10m").await;
    assert_eq!(cluster.get(WEB).await["spec"]["replicas"], 4, "five minutes have to pass");
    let lowered = cluster.until(WEB, |d| d["spec"]["replicas"] == 2).await;
    assert_eq!(lowered["metadata"]["name"], "web");
    let limited = cluster.until(SCALER, |h| condition(h, "ScalingLimited").0 == "True").await;
    assert_eq!(condition(&limited, "ScalingLimited").1, "TooFewReplicas");
    let told = cluster.events("web").await;
    for want in [
        "HorizontalPodAutoscaler/web Normal SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target",
        "HorizontalPodAutoscaler/web Normal SuccessfulRescale: New size: 2; reason: All metrics below target",
    ] {
        assert!(told.contains(&want.to_string()), "{told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn policies_bound_each_step() {
    let more = ", behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}]}, scaleDown: {stabilizationWindowSeconds: 0}}";
    let cluster = up(2, CPU, more).await;
    load(&cluster, "400m").await;
    cluster.until(WEB, |d| d["spec"]["replicas"] == 3).await;
    let first = apimachinery::clock::now();
    cluster.until(WEB, |d| d["spec"]["replicas"] == 4).await;
    let waited = apimachinery::clock::now().duration_since(first).as_secs();
    assert!((55..80).contains(&waited), "{waited} s");
    assert_eq!(condition(&cluster.get(SCALER).await, "ScalingLimited").1, "ScaleUpLimit");
}

#[tokio::test(start_paused = true)]
async fn other_metrics_and_missing_ones() {
    let external =
        "{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: '10'}}}";
    let cluster = up(2, external, "").await;
    let inactive = cluster.until(SCALER, |h| condition(h, "ScalingActive").0 == "False").await;
    assert_eq!(condition(&inactive, "ScalingActive").1, "FailedGetExternalMetric");
    let told = cluster.events("web").await;
    assert!(
        told.iter().any(|t| t.starts_with("HorizontalPodAutoscaler/web Warning FailedGetExternalMetric:")),
        "{told:#?}"
    );
    cluster.serve_metrics(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue",
        json!({"items": [{"value": "45"}, {"value": "5"}]}),
    );
    cluster.until(WEB, |d| d["spec"]["replicas"] == 5).await;
    let pods = "{type: Pods, pods: {metric: {name: requests}, target: {type: AverageValue, averageValue: '5'}}}";
    cluster
        .patch(
            SCALER,
            json!({"spec": {"metrics": apimachinery::yaml::from_str::<Value>(&format!("[{pods}]")).unwrap()}}),
        )
        .await;
    let value = |p: &Value| json!({"describedObject": {"kind": "Pod", "name": name(p)}, "value": "6"});
    let items: Vec<Value> = cluster.pods("web").await.iter().map(value).collect();
    cluster.serve_metrics(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests",
        json!({ "items": items }),
    );
    cluster.until(WEB, |d| d["spec"]["replicas"] == 6).await;
    // A target that isn't there.
    cluster.delete(WEB, json!({})).await;
    let lost = cluster.until(SCALER, |h| condition(h, "AbleToScale").0 == "False").await;
    assert_eq!(condition(&lost, "AbleToScale").1, "FailedGetScale");
}
