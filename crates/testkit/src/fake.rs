//! Nodes that run pods in name only: every pod that is bound to one is Running and Ready at once, and gone as soon as it
//! is deleted. For what a control plane does with thousands of them. They have the label `testkit/fake`.
//!
//! A pod's annotations say otherwise where a test wants it; times are in seconds of [`apimachinery::clock`] and tokio's, which may
//! both be faster than the wall's:
//! - `fake/exit`: its containers end with this code, `fake/seconds` (0) after their start;
//! - `fake/ready`: it gets ready after so long, or `never`;
//! - `fake/lingers`: it takes so long to end when it is deleted.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Requests that the nodes have under way at a time.
const AT_ONCE: usize = 64;
/// How often a node says that it lives.
const LEASE: Duration = Duration::from_secs(10);

/// Registers `count` nodes, `fake-0` and so on if `prefix` is `fake`, each with room for 110 pods; they live until the task is
/// aborted.
///
/// # Errors
/// When the API refuses one.
pub async fn nodes(client: Client, prefix: &'static str, count: usize) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let register = |i: usize| {
        let (client, slots) = (client.clone(), slots.clone());
        async move {
            let _slot = slots.acquire().await;
            register(&client, &format!("{prefix}-{i}")).await
        }
    };
    futures::future::try_join_all((0..count).map(register)).await?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = run_pods(client.clone(), prefix, slots) => {}
            () = renew(client, prefix, count) => {}
        }
    }))
}

async fn register(client: &Client, name: &str) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "testkit/fake": "true"});
    let node = json!({"metadata": {"name": name, "labels": labels}});
    let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
    nodes.create(&PostParams::default(), &node).await?;
    let amounts = json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"});
    let status = json!({"status": {"capacity": amounts, "allocatable": amounts,
        "addresses": [{"type": "InternalIP", "address": "192.0.2.200"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": clock::now_rfc3339(), "lastTransitionTime": clock::now_rfc3339()}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = json!({"metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": clock::now_micro()}});
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    leases.create(&PostParams::default(), &lease).await.map(|_| ())
}

/// Renews all leases, each in its own time, as real nodes do.
async fn renew(client: Client, prefix: &str, count: usize) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let keep = |i: usize| {
        let (leases, name) = (leases.clone(), format!("{prefix}-{i}"));
        async move {
            tokio::time::sleep(LEASE.mul_f64(i as f64 / count as f64)).await;
            loop {
                let patch = Patch::Merge(json!({"spec": {"renewTime": clock::now_micro()}}));
                let _ = leases.patch(&name, &PatchParams::default(), &patch).await;
                tokio::time::sleep(LEASE).await;
            }
        }
    };
    futures::future::join_all((0..count).map(keep)).await;
}

/// Makes every pod of every fake node what its node would make of it.
async fn run_pods(client: Client, prefix: &str, slots: Arc<Semaphore>) {
    let pods: Api<Pod> = Api::all(client.clone());
    let bound = watcher::Config::default().fields("spec.nodeName!=");
    let mut events = std::pin::pin!(watcher(pods, bound));
    let mut number: u32 = 0;
    loop {
        let pod = match events.try_next().await {
            Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) => pod,
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(_) => continue,
        };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let number_of = node.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        if number_of.is_none_or(|n| n.parse::<usize>().is_err()) {
            continue;
        }
        number += 1;
        let (client, slots) = (client.clone(), slots.clone());
        tokio::spawn(async move {
            let _ = run_pod(&client, &pod, number, &slots).await;
        });
    }
}

/// What an annotation of a pod says, in seconds.
fn seconds(pod: &Pod, key: &str) -> Option<u64> {
    pod.annotations().get(key)?.parse().ok()
}

async fn run_pod(client: &Client, pod: &Pod, number: u32, slots: &Semaphore) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        pause(seconds(pod, "fake/lingers")).await;
        let _slot = slots.acquire().await;
        if !matches!(phase(pod), "Succeeded" | "Failed") {
            let status = ended(pod, number, &clock::now_rfc3339(), 143);
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        return api.delete(&name, &now).await.map(|_| ());
    }
    if phase(pod) != "Pending" {
        return Ok(());
    }
    let put = async |status: Value| {
        let _slot = slots.acquire().await;
        // The uid keeps it from one of the same name.
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await
    };
    let begun = clock::now_rfc3339();
    let wait = pod.annotations().get("fake/ready").map(|text| text.parse::<u64>().ok());
    put(status(pod, number, &begun, wait.is_none())).await?;
    if let Some(Some(wait)) = wait {
        pause(Some(wait)).await;
        put(status(pod, number, &begun, true)).await?;
    }
    if let Some(code) = pod.annotations().get("fake/exit").and_then(|c| c.parse::<i32>().ok()) {
        pause(seconds(pod, "fake/seconds")).await;
        if phase(&api.get(&name).await?) != "Running" {
            // Somebody else has ended it.
            return Ok(());
        }
        put(ended(pod, number, &begun, code)).await?;
    }
    Ok(())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

async fn pause(seconds: Option<u64>) {
    if let Some(seconds) = seconds {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

/// The status of a pod that runs, since `begun`.
fn status(pod: &Pod, number: u32, begun: &str, ready: bool) -> Value {
    let at = clock::now_rfc3339();
    let condition = |(kind, holds): (&str, bool)| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastProbeTime": null, "lastTransitionTime": at});
    let conditions =
        [("PodScheduled", true), ("Initialized", true), ("ContainersReady", ready), ("Ready", ready)].map(condition);
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter()).map(|c| {
        json!({"name": c.name, "image": c.image, "imageID": "fake", "ready": ready, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": begun}}, "containerID": "fake://0"})
    });
    let [_, b, c, d] = number.to_be_bytes();
    let ip = format!("10.{b}.{c}.{d}");
    json!({"phase": "Running", "startTime": begun, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>()})
}

/// The status of a pod whose containers have ended with `code`.
fn ended(pod: &Pod, number: u32, begun: &str, code: i32) -> Value {
    let mut status = status(pod, number, begun, false);
    status["phase"] = if code == 0 { "Succeeded" } else { "Failed" }.into();
    let reason = if code == 0 { "Completed" } else { "Error" };
    for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
        container["state"] = json!({"running": null, "terminated": {"exitCode": code, "reason": reason, "startedAt": begun,
            "finishedAt": clock::now_rfc3339()}});
    }
    status
}
