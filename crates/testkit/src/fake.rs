//! Nodes that run pods in name only: every pod that is bound to one is Running and Ready at once, and gone as soon as it
//! is deleted. For what a control plane does with thousands of them. They have the label `testkit/fake`.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::Semaphore;

/// Requests that the nodes have under way at a time.
const AT_ONCE: usize = 64;
/// How often a node says that it lives.
const LEASE: Duration = Duration::from_secs(15);

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn seconds() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Registers `count` nodes, `fake-0` and so on, each with room for 110 pods; they live until the task is aborted.
///
/// # Errors
/// When the API refuses one.
pub async fn nodes(client: Client, count: usize) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let register = |i: usize| {
        let (client, slots) = (client.clone(), slots.clone());
        async move {
            let _slot = slots.acquire().await;
            register(&client, &format!("fake-{i}")).await
        }
    };
    futures::future::try_join_all((0..count).map(register)).await?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = run_pods(client.clone(), slots) => {}
            () = renew(client, count) => {}
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
            "lastHeartbeatTime": seconds(), "lastTransitionTime": seconds()}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = json!({"metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()}});
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    leases.create(&PostParams::default(), &lease).await.map(|_| ())
}

async fn renew(client: Client, count: usize) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        for i in 0..count {
            let patch = Patch::Merge(json!({"spec": {"renewTime": now()}}));
            let _ = leases.patch(&format!("fake-{i}"), &PatchParams::default(), &patch).await;
        }
        tokio::time::sleep(LEASE).await;
    }
}

/// Makes every pod of every fake node what its node would make of it.
async fn run_pods(client: Client, slots: Arc<Semaphore>) {
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
        if !node.starts_with("fake-") {
            continue;
        }
        number += 1;
        let (client, slots) = (client.clone(), slots.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            run_pod(&client, &pod, number).await;
        });
    }
}

async fn run_pod(client: &Client, pod: &Pod, number: u32) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api.delete(&name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await;
        return;
    }
    if pod.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Pending") {
        return;
    }
    let at = seconds();
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": at});
    let [_, b, c, d] = number.to_be_bytes();
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter()).map(|c| {
        json!({"name": c.name, "image": c.image, "imageID": "fake", "ready": true, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": at}}, "containerID": "fake://0"})
    });
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    let ip = format!("10.{b}.{c}.{d}");
    let status = json!({"status": {"phase": "Running", "startTime": at, "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>()}});
    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
}
