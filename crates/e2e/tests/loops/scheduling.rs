//! The scheduler, through the API.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cluster::{Cluster, condition, is_ready, name};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, more: &str, cpu: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{{more} containers: [{{name: c, image: one, \
         resources: {{requests: {{cpu: '{cpu}'}}}}}}]}}}}"
    )
}

fn is_held(pod: &Value) -> bool {
    condition(pod, "PodScheduled").0 == "False"
}

#[tokio::test(start_paused = true)]
async fn important_pods_make_room_and_budgets_are_spared() {
    let cluster = Cluster::start(2).await;
    for (class, value) in [("low", 10), ("high", 1000)] {
        cluster
            .create(&format!(
                "{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {class}}}, value: {value}}}"
            ))
            .await;
    }
    cluster.create("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: 1, selector: {matchLabels: {app: kept}}}}").await;
    // Nodes have 32 processors: both are full.
    cluster.create(&pod("kept", "priorityClassName: low,", "20")).await;
    cluster.until(&format!("{PODS}/kept"), is_ready).await;
    cluster.create(&pod("spare", "priorityClassName: low,", "20")).await;
    cluster.until(&format!("{PODS}/spare"), is_ready).await;
    cluster
        .until("/apis/policy/v1/namespaces/default/poddisruptionbudgets/b", |b| b["status"]["currentHealthy"] == 1)
        .await;
    let room = cluster.get(&format!("{PODS}/spare")).await["spec"]["nodeName"].clone();
    cluster.create(&pod("vip", "priorityClassName: high,", "20")).await;
    let vip = cluster.until(&format!("{PODS}/vip"), is_ready).await;
    assert_eq!(vip["spec"]["nodeName"], room);
    assert!(cluster.get(&format!("{PODS}/spare")).await.is_null());
    assert!(is_ready(&cluster.get(&format!("{PODS}/kept")).await));
    let told = cluster.events("spare").await;
    let preempted = format!(
        "Pod/spare Normal Preempted: Preempted by pod {} on node {}",
        vip["metadata"]["uid"].as_str().unwrap(),
        room.as_str().unwrap()
    );
    assert!(told.contains(&preempted), "{told:#?}");
    let told = cluster.events("vip").await;
    assert!(
        told.contains(&"Pod/vip Warning FailedScheduling: 0/2 nodes are available: 2 Insufficient cpu.".into())
            || told.iter().any(|t| t.starts_with("Pod/vip Warning FailedScheduling: 0/2 nodes are available: 2 Insufficient cpu")),
        "{told:#?}"
    );
    // One that never preempts waits.
    cluster.create("{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: patient}, value: 2000, preemptionPolicy: Never}").await;
    cluster.create(&pod("patient", "priorityClassName: patient,", "20")).await;
    cluster.until(&format!("{PODS}/patient"), is_held).await;
    cluster.delete(&format!("{PODS}/vip"), json!({})).await;
    cluster.until(&format!("{PODS}/patient"), is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn the_more_important_comes_first_when_room_appears() {
    let cluster = Cluster::without_loops().await;
    cluster.create("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}").await;
    cluster.create("{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 1000, preemptionPolicy: Never}").await;
    for i in 0..5 {
        cluster.create(&pod(&format!("low-{i}"), "", "20")).await;
    }
    cluster.create(&pod("vip", "priorityClassName: high,", "20")).await;
    cluster.start_loops(usize::MAX);
    sleep(Duration::from_secs(5)).await;
    cluster.add_nodes("fake", 1).await;
    cluster.until(&format!("{PODS}/vip"), is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn gates_selectors_and_spread() {
    let cluster = Cluster::start(4).await;
    for i in 0..4 {
        cluster
            .patch(&format!("/api/v1/nodes/fake-{i}"), json!({"metadata": {"labels": {"zone": format!("z{}", i % 2)}}}))
            .await;
    }
    cluster.create(&pod("gated", "schedulingGates: [{name: example.com/wait}],", "1")).await;
    let gated = cluster.until(&format!("{PODS}/gated"), is_held).await;
    assert_eq!(condition(&gated, "PodScheduled").1, "SchedulingGated");
    cluster.patch(&format!("{PODS}/gated"), json!({"spec": {"schedulingGates": null}})).await;
    cluster.until(&format!("{PODS}/gated"), is_ready).await;
    let spread = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: even}}}],";
    cluster
        .create(&format!(
            "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: even}}, spec: {{replicas: 6, selector: {{matchLabels: {{app: even}}}}, \
             template: {{metadata: {{labels: {{app: even}}}}, spec: {{{spread} containers: [{{name: c, image: one}}]}}}}}}}}"
        ))
        .await;
    cluster.until("/apis/apps/v1/namespaces/default/replicasets/even", |s| s["status"]["readyReplicas"] == 6).await;
    let even = cluster.pods("even").await;
    let of_zone = |zone: usize| {
        even.iter()
            .filter(|p| p["spec"]["nodeName"].as_str().unwrap()[5..].parse::<usize>().unwrap() % 2 == zone)
            .count()
    };
    assert_eq!((of_zone(0), of_zone(1)), (3, 3));
    // Apart from each other, of which there is room for four.
    let apart = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: apart}}, topologyKey: kubernetes.io/hostname}]}},";
    for i in 0..5 {
        cluster.create(&pod("apart", apart, "1").replacen("name: apart", &format!("name: apart-{i}"), 1)).await;
    }
    let apart = format!("{PODS}?labelSelector=app%3Dapart");
    let pods =
        cluster.until_list(&apart, |p| p.iter().filter(|p| is_ready(p)).count() == 4 && p.iter().any(is_held)).await;
    let held = pods.iter().find(|p| is_held(p)).unwrap();
    assert_eq!(
        condition(held, "PodScheduled").2,
        "0/4 nodes are available: 4 node(s) didn't match pod anti-affinity rules. preemption: 0/4 nodes are available: \
         4 No preemption victims found for incoming pod."
    );
    let gone = pods.iter().find(|p| is_ready(p)).unwrap();
    cluster.delete(&format!("{PODS}/{}", name(gone)), json!({})).await;
    cluster.until(&format!("{PODS}/{}", name(held)), is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn profiles_are_chosen_by_name() {
    let cluster = Cluster::without_loops().await;
    let text = "{apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, profiles: [{}, {schedulerName: packing, pluginConfig: \
                [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}]}]}";
    cluster.start_loops_with(usize::MAX, &scheduler::profile::Profiles::read(text).unwrap());
    cluster.add_nodes("fake", 3).await;
    for i in 0..4 {
        cluster.create(&pod(&format!("p{i}"), "schedulerName: packing,", "2")).await;
        cluster.until(&format!("{PODS}/p{i}"), is_ready).await;
    }
    let pods = cluster.list(PODS).await;
    assert!(pods.iter().all(|p| p["spec"]["nodeName"] == pods[0]["spec"]["nodeName"]), "all on one");
    cluster.create(&pod("other", "schedulerName: elsewhere,", "1")).await;
    sleep(Duration::from_secs(60)).await;
    assert!(cluster.get(&format!("{PODS}/other")).await["spec"]["nodeName"].is_null());
    let events = cluster.list("/api/v1/namespaces/default/events").await;
    let bound = events.iter().find(|e| e["involvedObject"]["name"] == "p0" && e["reason"] == "Scheduled").unwrap();
    assert_eq!(bound["reportingComponent"], "packing");
    // It is written as an event of `events.k8s.io/v1`, as upstream's scheduler writes them.
    assert!(bound["action"] == "Binding" && bound["source"]["component"].is_null(), "{bound}");
    assert!(bound["eventTime"].is_string() && bound["lastTimestamp"].is_null(), "{bound}");
}

#[tokio::test(start_paused = true)]
async fn resources_that_somebody_advertises_may_be_asked_for() {
    let cluster = Cluster::start(1).await;
    for (class, value) in [("low", 10), ("high", 1000)] {
        let class = format!(
            "{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {class}}}, value: {value}}}"
        );
        cluster.create(&class).await;
    }
    let node = "/api/v1/nodes/fake-0";
    let dongles = json!({"example.com/dongle": "3"});
    cluster.patch(&format!("{node}/status"), json!({"status": {"capacity": dongles, "allocatable": dongles}})).await;
    let pod = |name: &str, class: &str| {
        let amounts = "requests: {example.com/dongle: '2'}, limits: {example.com/dongle: '2'}";
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{priorityClassName: {class}, \
             containers: [{{name: c, image: one, resources: {{{amounts}}}}}]}}}}"
        )
    };
    cluster.create(&pod("victim", "low")).await;
    cluster.until(&format!("{PODS}/victim"), is_ready).await;
    cluster.create(&pod("preemptor", "high")).await;
    cluster.until(&format!("{PODS}/preemptor"), is_ready).await;
    cluster.until(&format!("{PODS}/victim"), Value::is_null).await;
}
