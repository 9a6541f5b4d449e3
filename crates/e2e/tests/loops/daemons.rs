//! DaemonSets.

use serde_json::{Value, json};

use crate::cluster::{Cluster, image, names};

const LOGS: &str = "/apis/apps/v1/namespaces/default/daemonsets/logs";
const NODES: &str = "/api/v1/nodes";

fn logs(more: &str, pod: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: logs}}, spec: {{{more} selector: {{matchLabels: {{app: logs}}}}, \
         template: {{metadata: {{labels: {{app: logs}}, annotations: {{{annotations}}}}}, spec: {{{pod} containers: [{{name: c, image: one}}]}}}}}}}}"
    )
}

fn nodes_of(pods: &[Value]) -> Vec<String> {
    let mut nodes: Vec<String> =
        pods.iter().map(|p| p["spec"]["nodeName"].as_str().unwrap_or("").to_string()).collect();
    nodes.sort();
    nodes
}

fn is_rolled_out(d: &Value) -> bool {
    let status = &d["status"];
    status["observedGeneration"] == d["metadata"]["generation"]
        && status["updatedNumberScheduled"] == status["desiredNumberScheduled"]
        && status["numberAvailable"] == status["desiredNumberScheduled"]
        && status["desiredNumberScheduled"] != 0
}

#[tokio::test(start_paused = true)]
async fn every_fit_node_has_one() {
    let cluster = Cluster::start(3).await;
    cluster.patch(&format!("{NODES}/fake-1"), json!({"metadata": {"labels": {"disk": "ssd"}}})).await;
    cluster.create(&logs("", "nodeSelector: {disk: ssd},", "")).await;
    cluster.until(LOGS, is_rolled_out).await;
    assert_eq!(nodes_of(&cluster.pods("logs").await), ["fake-1"]);
    // Nodes that become fit get one, those that cease lose it.
    cluster.patch(&format!("{NODES}/fake-2"), json!({"metadata": {"labels": {"disk": "ssd"}}})).await;
    cluster.patch(&format!("{NODES}/fake-1"), json!({"metadata": {"labels": {"disk": "hdd"}}})).await;
    cluster.until(LOGS, |d| is_rolled_out(d) && d["status"]["numberMisscheduled"] == 0).await;
    assert_eq!(nodes_of(&cluster.pods("logs").await), ["fake-2"]);
    cluster.add_nodes("late", 1).await;
    cluster.patch(&format!("{NODES}/late-0"), json!({"metadata": {"labels": {"disk": "ssd"}}})).await;
    cluster.until(LOGS, |d| d["status"]["numberAvailable"] == 2).await;
    // A cordon drives nobody away, and keeps no daemon off; a taint does.
    cluster.patch(&format!("{NODES}/fake-2"), json!({"spec": {"unschedulable": true}})).await;
    cluster
        .patch(
            &format!("{NODES}/fake-0"),
            json!({"metadata": {"labels": {"disk": "ssd"}}, "spec": {"unschedulable": true}}),
        )
        .await;
    cluster.until(LOGS, |d| d["status"]["numberAvailable"] == 3).await;
    cluster
        .patch(&format!("{NODES}/fake-0"), json!({"spec": {"taints": [{"key": "no", "effect": "NoExecute"}]}}))
        .await;
    cluster.until(LOGS, |d| d["status"]["numberAvailable"] == 2 && d["status"]["desiredNumberScheduled"] == 2).await;
    assert_eq!(nodes_of(&cluster.pods("logs").await), ["fake-2", "late-0"]);
    cluster.delete(&format!("{NODES}/late-0"), json!({})).await;
    cluster.until(LOGS, |d| d["status"]["desiredNumberScheduled"] == 1).await;
    let told = cluster.events("logs").await;
    assert!(
        told.iter().any(|t| t.starts_with("DaemonSet/logs Normal SuccessfulCreate: Created pod: logs-")),
        "{told:#?}"
    );
    assert!(
        told.iter().any(|t| t.starts_with("DaemonSet/logs Normal SuccessfulDelete: Deleted pod: logs-")),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn update_takes_nodes_one_after_the_other() {
    let cluster = Cluster::start(4).await;
    cluster.create(&logs("", "", "fake/ready: '3', fake/lingers: '3'")).await;
    cluster.until(LOGS, is_rolled_out).await;
    cluster.patch(LOGS, image("two")).await;
    let mut fewest = i64::MAX;
    cluster
        .until(LOGS, |d| {
            fewest = fewest.min(d["status"]["numberAvailable"].as_i64().unwrap_or(0));
            is_rolled_out(d)
        })
        .await;
    assert_eq!(fewest, 3);
    assert_eq!(nodes_of(&cluster.pods("logs").await), ["fake-0", "fake-1", "fake-2", "fake-3"]);
    let revisions = cluster.list("/apis/apps/v1/namespaces/default/controllerrevisions").await;
    assert_eq!(names(&revisions).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn surge_puts_the_new_beside_the_old() {
    let cluster = Cluster::start(3).await;
    let more = "updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}},";
    cluster.create(&logs(more, "", "fake/ready: '3', fake/lingers: '3'")).await;
    cluster.until(LOGS, is_rolled_out).await;
    cluster.patch(LOGS, image("two")).await;
    cluster
        .until(LOGS, |d| {
            assert_eq!(d["status"]["numberAvailable"], 3, "no node is without one at any time");
            is_rolled_out(d)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn on_delete_and_failed_daemons() {
    let cluster = Cluster::start(2).await;
    cluster.create(&logs("updateStrategy: {type: OnDelete},", "", "")).await;
    cluster.until(LOGS, is_rolled_out).await;
    cluster.patch(LOGS, image("two")).await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let pods = cluster.pods("logs").await;
    assert!(pods.iter().all(|p| p["spec"]["containers"][0]["image"] == "one"));
    let victim = pods[0]["metadata"]["name"].as_str().unwrap().to_string();
    // One that failed is replaced, by the new version.
    cluster
        .patch(&format!("/api/v1/namespaces/default/pods/{victim}/status"), json!({"status": {"phase": "Failed"}}))
        .await;
    cluster.until(LOGS, |d| d["status"]["updatedNumberScheduled"] == 1 && d["status"]["numberAvailable"] == 2).await;
    let told = cluster.events("logs").await;
    assert!(
        told.iter()
            .any(|t| t.starts_with("DaemonSet/logs Warning FailedDaemonPod: Found failed daemon pod default/logs-")),
        "{told:#?}"
    );
    // One that ended well, too: a daemon never has an end.
    let pods = cluster.pods("logs").await;
    let ended = pods[1]["metadata"]["name"].as_str().unwrap().to_string();
    cluster
        .patch(&format!("/api/v1/namespaces/default/pods/{ended}/status"), json!({"status": {"phase": "Succeeded"}}))
        .await;
    cluster.until(&format!("/api/v1/namespaces/default/pods/{ended}"), serde_json::Value::is_null).await;
    let told = cluster.events("logs").await;
    let begins =
        format!("DaemonSet/logs Normal SucceededDaemonPod: Found succeeded daemon pod default/{ended} on node ");
    assert!(told.iter().any(|t| t.starts_with(&begins)), "{told:#?}");
}
