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

#[tokio::test(start_paused = true)]
async fn what_isnt_known_of_some_pods_or_metrics_stops_no_others() {
    let external =
        "{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: '10'}}}";
    let cluster = up(2, CPU, "").await;
    // Of one pod only the memory is told: it counts as idle while more are asked for.
    let usage =
        |p: &Value, usage: Value| json!({"metadata": {"name": name(p)}, "containers": [{"name": "c", "usage": usage}]});
    let pods = cluster.pods("web").await;
    let items =
        json!([usage(&pods[0], json!({"cpu": "100m", "memory": "1Mi"})), usage(&pods[1], json!({"memory": "1Mi"}))]);
    cluster.serve_metrics("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", json!({ "items": items }));
    let active = cluster.until(SCALER, |h| condition(h, "ScalingActive").0 == "True").await;
    assert_eq!(active["status"]["desiredReplicas"], 2, "{active}");
    // A second metric that can't be had: the first one holds as long as it asks for no fewer.
    let metrics = apimachinery::yaml::from_str::<Value>(&format!("[{external}, {CPU}]")).unwrap();
    cluster.patch(SCALER, json!({"spec": {"metrics": metrics}})).await;
    load(&cluster, "50m").await;
    let told =
        "HorizontalPodAutoscaler/web Warning FailedGetExternalMetric: failed to get queue external metric value: ";
    let mut events = Vec::new();
    for _ in 0..40 {
        events = cluster.events("web").await;
        if events.iter().any(|e| e.starts_with(told)) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(events.iter().any(|e| e.starts_with(told)), "{events:#?}");
    sleep(Duration::from_secs(30)).await;
    let kept = cluster.get(SCALER).await;
    assert_eq!(condition(&kept, "ScalingActive"), condition(&active, "ScalingActive"), "{kept}");
    // Fewer because of one is no good while another isn't known.
    load(&cluster, "10m").await;
    let failed = cluster.until(SCALER, |h| condition(h, "ScalingActive").0 == "False").await;
    let (_, reason, message) = condition(&failed, "ScalingActive");
    assert_eq!(reason, "FailedGetExternalMetric");
    let words = "the HPA was unable to compute the replica count: failed to get queue external metric value: ";
    assert!(message.starts_with(words), "{message}");
    let whole = "HorizontalPodAutoscaler/web Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: ";
    let events = cluster.events("web").await;
    assert!(events.iter().any(|e| e.starts_with(whole)), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn two_autoscalers_of_the_same_pods_leave_them_alone() {
    let cluster = up(2, CPU, "").await;
    load(&cluster, "100m").await;
    cluster.until(WEB, |d| d["status"]["availableReplicas"] == 4).await;
    load(&cluster, "100m").await;
    cluster.until(SCALER, |h| condition(h, "ScalingActive").0 == "True").await;
    const TWIN: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/twin";
    cluster
        .create(
            "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: twin}, spec: {scaleTargetRef: {apiVersion: apps/v1, \
             kind: Deployment, name: web}, maxReplicas: 20}}",
        )
        .await;
    for scaler in [SCALER, TWIN] {
        let refused = cluster.until(scaler, |h| condition(h, "ScalingActive").1 == "AmbiguousSelector").await;
        let (status, _, message) = condition(&refused, "ScalingActive");
        assert_eq!(status, "False");
        assert_eq!(message, "pods by selector app=web are controlled by multiple HPAs: [default/twin default/web]");
    }
    cluster.delete(TWIN, json!({})).await;
    cluster.until(SCALER, |h| condition(h, "ScalingActive").0 == "True").await;
}
