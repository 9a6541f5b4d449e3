//! Nodes: their ranges of pod addresses, and what follows when one is not heard of any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Pod, Queue};
use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::toolkit::nodes::{is_ready, taints};
use crate::toolkit::{Context, Result, ignore};

use super::health::{GRACE, Health, Verdict};
use super::{eviction, ttl, volumes};

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
/// How long a pod may be on a node that isn't there before it counts as lost (upstream's `quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);
/// Prefix length of a node's range of IPv6 addresses, as upstream has it.
const NODE_PREFIX_V6: u8 = 64;

#[derive(Clone)]
struct Caches {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    volumes: Informer<PersistentVolume>,
    health: Arc<Mutex<Health>>,
    /// Nodes for which no range of addresses was left.
    without_range: Arc<Mutex<HashSet<String>>>,
}

/// The part of the cluster that fails together.
fn zone(node: &Node) -> String {
    let label = |key: &str| node.labels().get(key).map_or("", String::as_str);
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

pub fn start(context: Context) {
    let leases = context.informers.of::<Lease>();
    let caches = Caches {
        nodes: context.informers.of(),
        pods: context.informers.of(),
        volumes: context.informers.of(),
        health: Arc::default(),
        without_range: Arc::default(),
    };
    let queue = Queue::of(&caches.nodes, context.events.clone());
    let (add, own, told) = (queue.clone(), caches.clone(), context.clone());
    caches.nodes.on_change(move |change| {
        let (node, now) = (change.object(), apimachinery::clock::now());
        add.add(node.key());
        let changed = match change {
            informer::Change::Applied { .. } => {
                own.health.lock().put(&node.name_any(), &zone(node), is_ready(node), now)
            }
            informer::Change::Deleted(_) => {
                volumes::tell(&told, &own.volumes, &own.nodes, node, "is gone");
                // Its range is free for somebody.
                own.without_range.lock().drain().for_each(|name| add.add(Key::new("", &name)));
                own.health.lock().remove(&node.name_any(), now)
            }
        };
        if let informer::Change::Applied { old: None, new } = change {
            let text = format!("Node {0} event: Registered Node {0} in Controller", new.name_any());
            told.events.normal(new.as_ref(), "RegisteredNode", text);
        }
        if changed {
            // What may be done with the silent ones has changed.
            own.nodes.list().iter().filter(|n| !is_ready(n)).for_each(|n| add.add(n.key()));
        }
    });
    let (add, own) = (queue.clone(), caches.clone());
    leases.on_change(move |change| {
        let (lease, now) = (change.object(), apimachinery::clock::now());
        let name = lease.name_any();
        if lease.namespace().as_deref() == Some("kube-node-lease") {
            let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
            own.health.lock().hear(&name, renewed, now);
            let key = Key::new("", &name);
            if own.nodes.get(&key).is_some_and(|n| !is_ready(&n)) {
                add.add(key);
            }
        }
    });
    let (add, own) = (queue.clone(), caches.clone());
    caches.pods.on_change(move |change| {
        // A pod that comes to a node that others have to leave, or goes from one that is out of service.
        let informer::Change::Applied { old, new } = change else { return };
        let Some(name) = new.spec.as_ref().and_then(|s| s.node_name.as_deref()) else { return };
        if own.nodes.get(&Key::new("", name)).is_none() {
            // It may come yet; a pod of a node that never does is nobody's.
            add.add_after(Key::new("", name), QUARANTINE);
        }
        let matters = old.as_ref().is_none_or(|old| {
            old.spec.as_ref().is_none_or(|s| s.node_name.is_none())
                || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        });
        if !matters {
            return;
        }
        let key = Key::new("", name);
        if own.nodes.get(&key).is_some_and(|n| taints(&n).iter().any(|t| t.effect == "NoExecute")) {
            add.add(key);
        }
    });
    // One worker, so that no two nodes get the same range.
    queue.work("node", 1, move |key| {
        let (context, caches, leases) = (context.clone(), caches.clone(), leases.clone());
        async move {
            informer::synced!(caches.nodes, leases, caches.pods);
            reconcile(&context, &caches, &key).await
        }
    });
}

/// A range of `cluster` that no node has, also in part: nodes keep what they got when ranges had another length. `prefix` is
/// that of IPv4.
fn free_range(cluster: IpNet, prefix: u8, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let prefix = if cluster.addr().is_ipv4() { prefix } else { NODE_PREFIX_V6 };
    let prefix = prefix.max(cluster.prefix_len());
    let others: Vec<&IpNet> = taken.iter().filter(|range| range.prefix_len() != prefix).collect();
    let overlaps = |range: &IpNet| others.iter().any(|other| other.contains(range) || range.contains(*other));
    cluster.subnets(prefix).ok()?.find(|range| !taken.contains(range) && !overlaps(range))
}

async fn reconcile(context: &Context, caches: &Caches, key: &Key) -> Result<Option<Duration>> {
    let Some(node) = caches.nodes.get(key) else {
        // The cache may be behind: only the API itself knows that there is no such node.
        let nodes: Api<Node> = Api::all(context.client.clone());
        if nodes.get_metadata_opt(&key.name).await?.is_some() {
            return Ok(None);
        }
        return eviction::orphans(context, &caches.pods, &key.name).await.map(|()| None);
    };
    let api: Api<Node> = Api::all(context.client.clone());
    if node.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none()) {
        give_range(context, caches, &node).await?;
    }
    ttl::annotate(&api, &node, caches.nodes.list().len()).await?;
    if let Some(allocatable) = extended_allocatable(&node) {
        let patch = Patch::Merge(json!({"status": {"allocatable": allocatable}}));
        ignore(api.patch_status(&key.name, &PatchParams::default(), &patch).await, &[404])?;
    }
    let now = apimachinery::clock::now();
    let silence = caches.health.lock().silence(&key.name, now);
    let lost = silence > GRACE;
    let ready =
        node.status.as_ref().and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    if lost && ready.is_none_or(|c| c.status != "Unknown") {
        tracing::warn!(node = key.name, "a node stopped renewing its lease; its Ready condition is now Unknown");
        context.events.normal(node.as_ref(), "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        mark_unknown(&api, &node).await?;
        volumes::tell(context, &caches.volumes, &caches.nodes, &node, "is down");
        // The change brings the node here again.
        return Ok(None);
    }
    if ready.is_some_and(|c| c.status == "Unknown") {
        eviction::mark_unready(context, &caches.pods, &key.name).await?;
    }
    let mut wanted = wanted_taints(&node, lost);
    let mut again = None;
    let executes = |(key, effect): &(&str, &str)| *effect == "NoExecute" && matches!(*key, "not-ready" | "unreachable");
    if let Some(given_up) = wanted.iter().copied().find(executes) {
        let health = &caches.health;
        if health.lock().is_halted() {
            wanted.retain(|w| !executes(w));
        } else if !taints(&node).iter().any(|t| is_taint(t, given_up)) {
            match health.lock().give_up(&key.name, now) {
                Verdict::Yes => {}
                Verdict::No => wanted.retain(|w| !executes(w)),
                Verdict::Later(wait) => {
                    wanted.retain(|w| !executes(w));
                    again = Duration::try_from(wait).ok();
                }
            }
        }
    }
    write_taints(&api, &node, &wanted).await?;
    let evicted = eviction::evict(context, &caches.pods, &node).await?;
    let silent = (!lost).then(|| Duration::try_from(GRACE - silence).unwrap_or_default() + Duration::from_millis(100));
    Ok([again, evicted, silent].into_iter().flatten().min())
}

/// Extended resources that somebody advertises in `status.capacity` are allocatable as they are; with upstream the kubelet says so at its
/// next status (kubernetes.io, "Advertise Extended Resources for a Node"). What has to change, if anything has.
fn extended_allocatable(node: &Node) -> Option<Value> {
    let status = node.status.as_ref()?;
    // Names of another domain than Kubernetes' own.
    let is_extended = |name: &&String| {
        name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
    };
    let (capacity, allocatable) = (status.capacity.iter().flatten(), status.allocatable.iter().flatten());
    let mut change = serde_json::Map::new();
    for (name, amount) in capacity.filter(|(name, _)| is_extended(name)) {
        if status.allocatable.as_ref().and_then(|a| a.get(name)) != Some(amount) {
            change.insert(name.clone(), json!(amount));
        }
    }
    for (name, _) in allocatable.filter(|(name, _)| is_extended(name)) {
        if status.capacity.as_ref().is_none_or(|c| !c.contains_key(name)) {
            change.insert(name.clone(), Value::Null);
        }
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

/// Gives a node its range of pod addresses. If there is none left, the deletion of another node brings it here again.
async fn give_range(context: &Context, caches: &Caches, node: &Node) -> Result {
    let nodes = &caches.nodes;
    let list = nodes.list();
    let taken =
        list.iter().filter_map(|n| n.spec.as_ref()?.pod_cidrs.as_ref()).flatten().filter_map(|c| c.parse().ok());
    let taken = taken.collect();
    let ranges = context
        .config
        .cluster_cidr
        .iter()
        .map(|cluster| free_range(cluster, context.config.node_cidr_mask_size, &taken));
    let Some(ranges) = ranges.map(|range| range.map(|r| r.to_string())).collect::<Option<Vec<String>>>() else {
        if caches.without_range.lock().insert(node.name_any()) {
            context.events.warning(node, "CIDRNotAvailable", "all ranges of --cluster-cidr are in use");
        }
        return Ok(());
    };
    let api: Api<Node> = Api::all(context.client.clone());
    let patch = json!({"spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
    let changed = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    let cidr = changed.spec.and_then(|s| s.pod_cidr);
    nodes.wait_for(&node.key(), |n| n.and_then(|n| n.spec.as_ref()).and_then(|s| s.pod_cidr.clone()) == cidr).await;
    Ok(())
}

/// Whether a taint is that of a key (after the prefix) and an effect.
fn is_taint(taint: &Taint, (key, effect): (&str, &str)) -> bool {
    taint.key.strip_prefix(PREFIX) == Some(key) && taint.effect == effect
}

/// The conditions of a node that isn't heard of: each that isn't unknown yet becomes it, for the reason that it was told once or never.
fn unknown(node: &Node, now: &str) -> Vec<Value> {
    let told = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str| {
        let (reason, message) = match told.iter().find(|c| c.type_ == kind) {
            Some(c) if c.status == "Unknown" => return None,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(
            json!({"type": kind, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": now}),
        )
    };
    ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].into_iter().filter_map(condition).collect()
}

async fn mark_unknown(api: &Api<Node>, node: &Node) -> Result {
    let now = apimachinery::clock::now_rfc3339();
    let patch = Patch::Strategic(json!({"status": {"conditions": unknown(node, &now)}}));
    ignore(api.patch_status(&node.name_any(), &PatchParams::default(), &patch).await, &[404])
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
async fn write_taints(api: &Api<Node>, node: &Node, wanted: &[(&'static str, &'static str)]) -> Result {
    let present = taints(node);
    let ours = |t: &Taint| {
        let known = OF_CONDITIONS.iter().map(|(_, _, key)| *key).chain([UNSCHEDULABLE]);
        t.key.strip_prefix(PREFIX).is_some_and(|key| known.into_iter().any(|k| k == key))
    };
    let now = apimachinery::clock::now_rfc3339();
    let mut taints: Vec<Value> = Vec::new();
    for taint in present.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is_taint(t, *w))) {
        let mut value = serde_json::to_value(taint).unwrap_or_default();
        if taint.effect == "NoExecute" && taint.time_added.is_none() {
            // From now on the seconds count for which a pod tolerates it.
            value["timeAdded"] = now.as_str().into();
        }
        taints.push(value);
    }
    for (key, effect) in wanted.iter().filter(|w| !present.iter().any(|t| is_taint(t, **w))) {
        taints.push(json!({"key": format!("{PREFIX}{key}"), "effect": effect, "timeAdded": now}));
    }
    if json!(present) == json!(taints) {
        return Ok(());
    }
    let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    ignore(api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_a_silent_node_say_whether_they_were_ever_told() {
        let node = |conditions: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).unwrap()
        };
        let said = |conditions: Value| -> Vec<(String, String)> {
            let text = |c: &Value, key: &str| c[key].as_str().unwrap_or("").to_string();
            unknown(&node(conditions), "now").iter().map(|c| (text(c, "type"), text(c, "reason"))).collect()
        };
        let all = |ready: &str, pressure: &str| {
            [("Ready", ready), ("MemoryPressure", pressure), ("DiskPressure", pressure), ("PIDPressure", pressure)]
                .map(|(kind, reason)| (kind.to_string(), reason.to_string()))
        };
        assert_eq!(said(json!(null)), all("NodeStatusNeverUpdated", "NodeStatusNeverUpdated"));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(said(ready), all("NodeStatusUnknown", "NodeStatusNeverUpdated"));
        let known = json!([{"type": "Ready", "status": "Unknown"}, {"type": "Other", "status": "True"}]);
        assert_eq!(said(known), all("", "NodeStatusNeverUpdated")[1..]);
    }

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
    fn extended_resources_are_allocatable_as_they_are_advertised() {
        let node = |capacity: Value, allocatable: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n"}, "status": {"capacity": capacity, "allocatable": allocatable}}),
            )
            .unwrap()
        };
        let change = |capacity, allocatable| extended_allocatable(&node(capacity, allocatable));
        let (cpu, dongle) = (json!({"cpu": "2"}), json!({"cpu": "2", "example.com/dongle": "4"}));
        assert_eq!(change(dongle.clone(), json!({"cpu": "1"})), Some(json!({"example.com/dongle": "4"})));
        assert_eq!(change(dongle.clone(), dongle.clone()), None);
        assert_eq!(change(cpu, dongle), Some(json!({"example.com/dongle": null})));
        assert_eq!(change(json!({"kubernetes.io/x": "1", "memory": "1Ki"}), json!({})), None);
        assert_eq!(change(json!({"a.com/x": "2"}), json!({"a.com/x": "1"})), Some(json!({"a.com/x": "2"})));
    }

    #[test]
    fn ranges_are_given_once() {
        let cluster: IpNet = "10.42.0.0/16".parse().unwrap();
        let taken = HashSet::from(["10.42.0.0/24".parse().unwrap()]);
        assert_eq!(free_range(cluster, 24, &taken), "10.42.1.0/24".parse().ok());
        assert_eq!(free_range(cluster, 23, &taken), "10.42.2.0/23".parse().ok());
        let small: IpNet = "10.42.0.0/24".parse().unwrap();
        assert_eq!(free_range(small, 24, &taken), None);
    }
}
