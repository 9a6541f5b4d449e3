//! Nodes: their ranges of pod addresses, and what follows when one is not heard of any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Queue};
use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{Context, Result, pods};

/// A node whose lease is older than this counts as lost.
const GRACE: SignedDuration = SignedDuration::from_secs(40);
const CHECK: Duration = Duration::from_secs(5);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Prefix length of a node's range of IPv4 addresses.
const NODE_PREFIX: u8 = 24;

pub fn start(context: Context) {
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let all_pods = context.informers.of::<Pod>();
    let queue = Queue::default();
    let add = queue.clone();
    nodes.on_change(move |change| add.add(change.object().key()));
    // One worker, so that no two nodes get the same range.
    queue.work("node", 1, move |key| {
        let (context, nodes, leases, all_pods) = (context.clone(), nodes.clone(), leases.clone(), all_pods.clone());
        async move {
            informer::synced!(nodes, leases, all_pods);
            reconcile(&context, &nodes, &leases, &all_pods, &key).await
        }
    });
}

/// A range of `cluster` that no node has.
fn free_range(cluster: IpNet, taken: &HashSet<IpNet>) -> Option<IpNet> {
    cluster.subnets(NODE_PREFIX.max(cluster.prefix_len())).ok()?.find(|range| !taken.contains(range))
}

async fn reconcile(
    context: &Context,
    nodes: &Informer<Node>,
    leases: &Informer<Lease>,
    all_pods: &Informer<Pod>,
    key: &Key,
) -> Result<Option<Duration>> {
    let Some(node) = nodes.get(key) else { return orphans(context, all_pods, &key.name).await };
    let api: Api<Node> = Api::all(context.client.clone());
    let spec = node.spec.clone().unwrap_or_default();
    if spec.pod_cidr.is_none() {
        let taken = nodes.list().iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()).collect();
        let Some(range) = free_range(context.config.cluster_cidr, &taken) else {
            context.events.warning(node.as_ref(), "CIDRNotAvailable", "all ranges of --cluster-cidr are in use");
            return Ok(Some(Duration::from_secs(30)));
        };
        let patch = json!({"spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]}});
        let changed = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let cidr = changed.spec.and_then(|s| s.pod_cidr);
        nodes.wait_for(key, |n| n.and_then(|n| n.spec.as_ref()).and_then(|s| s.pod_cidr.clone()) == cidr).await;
    }
    let lease = leases.get(&Key::new("kube-node-lease", &key.name));
    let heard = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
    let heard =
        heard.or_else(|| node.metadata.creation_timestamp.as_ref().map(|t| t.0)).unwrap_or(Timestamp::UNIX_EPOCH);
    let lost = Timestamp::now().duration_since(heard) > GRACE;
    let ready =
        node.status.as_ref().and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    let state = ready.map_or("Unknown", |c| c.status.as_str()).to_string();
    if lost && state != "Unknown" {
        tracing::warn!(node = key.name, "the node isn't heard of any more");
        context.events.normal(node.as_ref(), "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        mark_unknown(&api, &node).await?;
        unready_pods(context, all_pods, &key.name).await?;
    }
    let wanted = if lost {
        Some(UNREACHABLE)
    } else if state == "True" {
        None
    } else {
        Some(NOT_READY)
    };
    write_taints(&api, &node, wanted).await?;
    evict(context, all_pods, &node).await?;
    Ok(Some(CHECK))
}

async fn mark_unknown(api: &Api<Node>, node: &Node) -> Result {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let conditions: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                           "message": "Kubelet stopped posting node status.", "lastTransitionTime": now})
        })
        .collect();
    let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
    crate::ignore(api.patch_status(&node.name_any(), &PatchParams::default(), &patch).await, &[404])
}

/// Services must not send anything to the pods of a lost node.
async fn unready_pods(context: &Context, all_pods: &Informer<Pod>, node: &str) -> Result {
    for pod in on_node(all_pods, node).into_iter().filter(|p| pods::is_ready(p)) {
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = Patch::Strategic(
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]}}),
        );
        crate::ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404])?;
    }
    Ok(())
}

fn on_node(all_pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    let is_there = |p: &Arc<Pod>| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
    all_pods.list().into_iter().filter(is_there).collect()
}

/// Sets the taints of `wanted` (NoSchedule and NoExecute) and removes those of the other state.
async fn write_taints(api: &Api<Node>, node: &Node, wanted: Option<&str>) -> Result {
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let ours = |t: &&Taint| t.key == UNREACHABLE || t.key == NOT_READY;
    let has: Vec<&str> = present.iter().filter(ours).map(|t| t.key.as_str()).collect();
    let right = match wanted {
        Some(key) => has.len() == 2 && has.iter().all(|k| *k == key),
        None => has.is_empty(),
    };
    if right {
        return Ok(());
    }
    let mut taints: Vec<Value> =
        present.iter().filter(|t| !ours(t)).filter_map(|t| serde_json::to_value(t).ok()).collect();
    if let Some(key) = wanted {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        taints
            .extend(["NoSchedule", "NoExecute"].map(|effect| json!({"key": key, "effect": effect, "timeAdded": now})));
    }
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    crate::ignore(api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])
}

/// Deletes the pods that don't tolerate a NoExecute taint of the node, once their time is over.
async fn evict(context: &Context, all_pods: &Informer<Pod>, node: &Node) -> Result {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        for pod in on_node(all_pods, &node.name_any()).into_iter().filter(|p| !pods::is_deleting(p)) {
            let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
            let age = Timestamp::now().duration_since(since).as_secs();
            let due = placement::tolerated_seconds(&tolerations, taint).is_some_and(|limit| age >= limit);
            if due {
                context.events.normal(
                    pod.as_ref(),
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {}", pod.key()),
                );
                pods::delete(&context.client, all_pods, &pod).await?;
            }
        }
    }
    Ok(())
}

/// Pods of a node that was deleted are gone with it.
async fn orphans(context: &Context, all_pods: &Informer<Pod>, node: &str) -> Result<Option<Duration>> {
    for pod in on_node(all_pods, node) {
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        let params = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        crate::ignore(api.delete(&pod.name_any(), &params).await, &[404])?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_once() {
        let cluster: IpNet = "10.42.0.0/16".parse().unwrap();
        let taken = HashSet::from(["10.42.0.0/24".parse().unwrap()]);
        assert_eq!(free_range(cluster, &taken), "10.42.1.0/24".parse().ok());
        let small: IpNet = "10.42.0.0/24".parse().unwrap();
        assert_eq!(free_range(small, &taken), None);
    }
}
