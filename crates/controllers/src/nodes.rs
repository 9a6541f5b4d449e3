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
/// How often a lost node is looked at: pods may still come to it.
const LOST_CHECK: Duration = Duration::from_secs(5);
/// The taints that conditions of a node bring: condition, its status, taint.
const OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "not-ready"),
    ("Ready", "Unknown", "unreachable"),
    ("MemoryPressure", "True", "memory-pressure"),
    ("DiskPressure", "True", "disk-pressure"),
    ("PIDPressure", "True", "pid-pressure"),
    ("NetworkUnavailable", "True", "network-unavailable"),
];
const UNSCHEDULABLE: &str = "unschedulable";
const PREFIX: &str = "node.kubernetes.io/";
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
    let lost = apimachinery::clock::now().duration_since(heard) > GRACE;
    let ready =
        node.status.as_ref().and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    let state = ready.map_or("Unknown", |c| c.status.as_str()).to_string();
    if lost && state != "Unknown" {
        tracing::warn!(node = key.name, "the node isn't heard of any more");
        context.events.normal(node.as_ref(), "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        mark_unknown(&api, &node).await?;
        unready_pods(context, all_pods, &key.name).await?;
    }
    write_taints(&api, &node, lost).await?;
    let again = evict(context, all_pods, &node).await?;
    let silent = GRACE - apimachinery::clock::now().duration_since(heard);
    let silent = Duration::try_from(silent).unwrap_or(LOST_CHECK) + Duration::from_millis(100);
    Ok(Some(again.map_or(silent, |again| again.min(silent))))
}

async fn mark_unknown(api: &Api<Node>, node: &Node) -> Result {
    let now = apimachinery::clock::now_rfc3339();
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
        let now = apimachinery::clock::now_rfc3339();
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

/// The taints that a node should have by its conditions: key (after the prefix) and effect.
fn wanted_taints(node: &Node, lost: bool) -> Vec<(&'static str, &'static str)> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut wanted = Vec::new();
    for (kind, status, key) in OF_CONDITIONS {
        let found = conditions.iter().find(|c| c.type_ == kind);
        let is_so = match kind {
            // Nothing was heard: that counts, not what was said last.
            "Ready" if lost => status == "Unknown",
            // A node that never said anything isn't ready.
            "Ready" => found.map_or("False", |c| c.status.as_str()) == status,
            _ => !lost && found.is_some_and(|c| c.status == status),
        };
        if is_so {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// Gives a node the taints that it should have, and takes those that it shouldn't.
async fn write_taints(api: &Api<Node>, node: &Node, lost: bool) -> Result {
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(node, lost);
    let ours = |t: &Taint| {
        let known = OF_CONDITIONS.iter().map(|(_, _, key)| *key).chain([UNSCHEDULABLE]);
        t.key.strip_prefix(PREFIX).is_some_and(|key| known.into_iter().any(|k| k == key))
    };
    let is = |t: &Taint, (key, effect): (&str, &str)| t.key.strip_prefix(PREFIX) == Some(key) && t.effect == effect;
    let now = apimachinery::clock::now_rfc3339();
    let mut taints: Vec<Value> = Vec::new();
    for taint in present.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, *w))) {
        let mut value = serde_json::to_value(taint).unwrap_or_default();
        if taint.effect == "NoExecute" && taint.time_added.is_none() {
            // From now on the seconds count for which a pod tolerates it.
            value["timeAdded"] = now.as_str().into();
        }
        taints.push(value);
    }
    for (key, effect) in wanted.into_iter().filter(|w| !present.iter().any(|t| is(t, *w))) {
        taints.push(json!({"key": format!("{PREFIX}{key}"), "effect": effect, "timeAdded": now}));
    }
    if json!(present) == json!(taints) {
        return Ok(());
    }
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    crate::ignore(api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])
}

/// Deletes the pods that don't tolerate a NoExecute taint of the node, once their time is over. Returns when the next
/// one's is.
async fn evict(context: &Context, all_pods: &Informer<Pod>, node: &Node) -> Result<Option<Duration>> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut soonest: Option<i64> = None;
    let executing: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    if executing.is_empty() {
        return Ok(None);
    }
    for pod in on_node(all_pods, &node.name_any()).into_iter().filter(|p| !pods::is_deleting(p)) {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let left = |taint: &&Taint| {
            let limit = placement::tolerated_seconds(&tolerations, taint)?;
            // One without a time is about to get it.
            let age = taint.time_added.as_ref().map_or(0, |t| apimachinery::clock::now().duration_since(t.0).as_secs());
            Some(limit - age)
        };
        match executing.iter().filter_map(left).min() {
            Some(left) if left <= 0 => evict_one(context, all_pods, &pod).await?,
            Some(left) => soonest = Some(soonest.map_or(left, |s| s.min(left))),
            None => {}
        }
    }
    let next = soonest.map_or(LOST_CHECK, |s| Duration::from_secs(s.max(1) as u64));
    Ok(Some(next.min(LOST_CHECK)))
}

async fn evict_one(context: &Context, all_pods: &Informer<Pod>, pod: &Pod) -> Result {
    context.events.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {}", pod.key()));
    let now = apimachinery::clock::now_rfc3339();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    crate::ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404, 409])?;
    pods::delete(&context.client, all_pods, pod).await
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
    fn conditions_bring_taints() {
        let node = |conditions: Value, unschedulable: bool| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": unschedulable},
                "status": {"conditions": conditions}}))
            .unwrap()
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let well = json!([condition("Ready", "True"), condition("DiskPressure", "False")]);
        assert_eq!(wanted_taints(&node(well.clone(), false), false), []);
        assert_eq!(wanted_taints(&node(well.clone(), true), false), [("unschedulable", "NoSchedule")]);
        let gone = [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")];
        assert_eq!(wanted_taints(&node(well, false), true), gone);
        let low = json!([condition("Ready", "True"), condition("MemoryPressure", "True")]);
        assert_eq!(wanted_taints(&node(low, false), false), [("memory-pressure", "NoSchedule")]);
        let new = wanted_taints(&node(json!([]), false), false);
        assert_eq!(new, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]);
    }

    #[test]
    fn ranges_are_given_once() {
        let cluster: IpNet = "10.42.0.0/16".parse().unwrap();
        let taken = HashSet::from(["10.42.0.0/24".parse().unwrap()]);
        assert_eq!(free_range(cluster, &taken), "10.42.1.0/24".parse().ok());
        let small: IpNet = "10.42.0.0/24".parse().unwrap();
        assert_eq!(free_range(small, &taken), None);
    }
}
