//! Nodes that are silent, come back, are drained, or go for good.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, condition, is_ready, name};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn taints(node: &Value) -> Vec<String> {
    let text = |t: &Value| {
        format!(
            "{}:{}",
            t["key"].as_str().unwrap_or("").replace("node.kubernetes.io/", ""),
            t["effect"].as_str().unwrap_or("")
        )
    };
    node["spec"]["taints"].as_array().into_iter().flatten().map(text).collect()
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{{more} containers: [{{name: c, image: one}}]}}}}"
    )
}

#[tokio::test(start_paused = true)]
async fn silent_node_is_given_up_and_its_pods_come_back_elsewhere() {
    let cluster = Cluster::start(1).await;
    let lost = cluster.add_nodes("lost", 1).await;
    let prefer = "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: \
                  {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [lost-0]}]}}]}},";
    cluster
        .create(&format!(
            "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: set}}, spec: {{replicas: 1, selector: {{matchLabels: {{app: set}}}}, \
             template: {{metadata: {{labels: {{app: set}}}}, spec: {{{prefer} containers: [{{name: c, image: one}}]}}}}}}}}"
        ))
        .await;
    let pods = cluster.until_list(PODS, |p| p.len() == 1 && p[0]["status"]["phase"] == "Running").await;
    assert_eq!(pods[0]["spec"]["nodeName"], "lost-0");
    let first = format!("{PODS}/{}", name(&pods[0]));
    lost.abort();
    let silent = apimachinery::clock::now();
    let node = cluster.until(&format!("{NODES}/lost-0"), |n| condition(n, "Ready").0 == "Unknown").await;
    let took = apimachinery::clock::now().duration_since(silent).as_secs();
    assert!((25..=42).contains(&took), "after {took} s");
    assert_eq!(condition(&node, "Ready").1, "NodeStatusUnknown");
    assert_eq!(condition(&node, "Ready").2, "Kubelet stopped posting node status.");
    // Services leave it at once; the pod itself stays for the five minutes that it tolerates.
    cluster.until(&first, |p| condition(p, "Ready").0 == "False").await;
    let node = cluster.until(&format!("{NODES}/lost-0"), |n| taints(n).len() == 2).await;
    assert_eq!(taints(&node), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    let tainted = apimachinery::clock::now();
    cluster.until(&first, |p| !p["metadata"]["deletionTimestamp"].is_null()).await;
    let took = apimachinery::clock::now().duration_since(tainted).as_secs();
    assert!((299..=302).contains(&took), "after {took} s");
    assert_eq!(condition(&cluster.get(&first).await, "DisruptionTarget").1, "DeletionByTaintManager");
    let pods = cluster.until_list(PODS, |p| p.iter().any(|p| p["spec"]["nodeName"] == "fake-0" && is_ready(p))).await;
    assert_eq!(pods.len(), 2, "the old one can't be known to have ended");
    // Until somebody says that the node is switched off.
    let mut all: Vec<Value> = node["spec"]["taints"].as_array().unwrap().clone();
    all.push(json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}));
    cluster.patch(&format!("{NODES}/lost-0"), json!({"spec": {"taints": all}})).await;
    cluster.until(&first, Value::is_null).await;
    let told = cluster.events("").await;
    let (node, pod) =
        ("Node/lost-0 Normal NodeNotReady: Node lost-0 status is now: NodeNotReady", format!("Pod/{}", name(&pods[0])));
    assert!(told.contains(&node.into()), "{told:#?}");
    assert!(
        told.iter().any(|t| t.starts_with("Pod/set-") && t.ends_with("Warning NodeNotReady: Node is not ready")),
        "{told:#?} {pod}"
    );
    assert!(
        told.iter().any(|t| t.contains("Normal TaintManagerEviction: Marking for deletion Pod default/set-")),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn control_plane_that_was_away_blames_nobody() {
    let cluster = Cluster::without_loops().await;
    let life = cluster.start_loops(usize::MAX);
    cluster.add_nodes("fake", 2).await;
    let quiet = cluster.add_nodes("quiet", 1).await;
    cluster.create(&pod("p", "")).await;
    cluster.until(&format!("{PODS}/p"), is_ready).await;
    life.end();
    quiet.abort();
    sleep(Duration::from_secs(600)).await;
    cluster.start_loops(usize::MAX);
    // Whoever is really silent has his time first.
    sleep(Duration::from_secs(30)).await;
    for node in cluster.list(NODES).await {
        assert_eq!((condition(&node, "Ready").0.as_str(), taints(&node).len()), ("True", 0), "{}", name(&node));
    }
    cluster.until(&format!("{NODES}/quiet-0"), |n| condition(n, "Ready").0 == "Unknown").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_evicted_when_all_nodes_are_silent() {
    let cluster = Cluster::without_loops().await;
    cluster.start_loops(usize::MAX);
    let all = cluster.add_nodes("fake", 3).await;
    cluster.create(&pod("p", "")).await;
    cluster.until(&format!("{PODS}/p"), is_ready).await;
    all.abort();
    cluster
        .until(NODES, |n| n["items"].as_array().unwrap().iter().all(|n| taints(n) == ["unreachable:NoSchedule"]))
        .await;
    sleep(Duration::from_secs(1000)).await;
    assert!(cluster.get(&format!("{PODS}/p")).await["metadata"]["deletionTimestamp"].is_null());
    for node in cluster.list(NODES).await {
        assert_eq!(taints(&node), ["unreachable:NoSchedule"]);
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_and_cordons_are_taints_and_a_deleted_node_takes_its_pods() {
    let cluster = Cluster::start(2).await;
    let node = format!("{NODES}/fake-0");
    cluster.create(&pod("p", "nodeSelector: {kubernetes.io/hostname: fake-0},")).await;
    cluster.until(&format!("{PODS}/p"), is_ready).await;
    cluster.patch(&node, json!({"spec": {"unschedulable": true}})).await;
    cluster.until(&node, |n| taints(n) == ["unschedulable:NoSchedule"]).await;
    cluster.create(&pod("held", "nodeSelector: {kubernetes.io/hostname: fake-0},")).await;
    let held = cluster.until(&format!("{PODS}/held"), |p| condition(p, "PodScheduled").0 == "False").await;
    assert_eq!(condition(&held, "PodScheduled").1, "Unschedulable");
    assert_eq!(
        condition(&held, "PodScheduled").2,
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    cluster.patch(&node, json!({"spec": {"unschedulable": null}})).await;
    cluster.until(&format!("{PODS}/held"), is_ready).await;
    let ranges: Vec<Value> = cluster.list(NODES).await.iter().map(|n| n["spec"]["podCIDR"].clone()).collect();
    assert_eq!(ranges, ["10.42.0.0/24", "10.42.1.0/24"]);
    cluster.delete(&node, json!({})).await;
    cluster.until_list(PODS, <[Value]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn taints_drive_away_who_doesnt_bear_them() {
    let cluster = Cluster::start(1).await;
    let bears =
        |seconds: &str| format!("tolerations: [{{key: maintenance, operator: Exists, effect: NoExecute{seconds}}}],");
    cluster.create(&pod("never", "")).await;
    cluster.create(&pod("minute", &bears(", tolerationSeconds: 60"))).await;
    cluster.create(&pod("always", &bears(""))).await;
    cluster.until(PODS, |p| p["items"].as_array().unwrap().iter().all(is_ready)).await;
    cluster
        .patch(&format!("{NODES}/fake-0"), json!({"spec": {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}}))
        .await;
    cluster.until(&format!("{PODS}/never"), Value::is_null).await;
    sleep(Duration::from_secs(55)).await;
    assert!(cluster.get(&format!("{PODS}/minute")).await["metadata"]["deletionTimestamp"].is_null());
    cluster.until(&format!("{PODS}/minute"), Value::is_null).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(cluster.list(PODS).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn claims_whose_volume_is_on_a_lost_node_say_so() {
    let cluster = Cluster::start(1).await;
    let lost = cluster.add_nodes("lost", 1).await;
    let volume = "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], \
                  storageClassName: manual, hostPath: {path: /x}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: \
                  [{key: kubernetes.io/hostname, operator: In, values: [lost-0]}]}]}}}}";
    cluster.create(volume).await;
    let claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {storageClassName: manual, accessModes: [ReadWriteOnce], \
                 resources: {requests: {storage: 1Gi}}}}";
    cluster.create(claim).await;
    cluster.until("/api/v1/namespaces/default/persistentvolumeclaims/c", |c| c["status"]["phase"] == "Bound").await;
    lost.abort();
    cluster.until(&format!("{NODES}/lost-0"), |n| condition(n, "Ready").0 == "Unknown").await;
    sleep(Duration::from_secs(5)).await;
    let told = cluster.events("c").await;
    let down = "PersistentVolumeClaim/c Warning VolumeNodeUnavailable: volume v lives on node lost-0, which is down";
    assert!(told.contains(&down.into()), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_on_a_node_that_never_comes_is_nobodys() {
    let cluster = Cluster::start(1).await;
    cluster.create(&pod("ghost", "nodeName: nowhere,")).await;
    cluster.create(&pod("early", "nodeName: late-0,")).await;
    let (ghost, early) = (format!("{PODS}/ghost"), format!("{PODS}/early"));
    sleep(Duration::from_secs(30)).await;
    assert!(!cluster.get(&ghost).await.is_null(), "its node may come yet");
    // One comes in time.
    let _late = cluster.add_nodes("late", 1).await;
    cluster.until(&ghost, Value::is_null).await;
    sleep(Duration::from_secs(60)).await;
    let kept = cluster.get(&early).await;
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept}");
}
