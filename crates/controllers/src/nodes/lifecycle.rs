//! Nodes: their ranges of pod addresses, and what follows when one doesn't renew its lease any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, PersistentVolume};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;

use crate::toolkit::conditions::NewCondition;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::nodes::{is_ready, taints};
use crate::toolkit::{Context, Result, conditions, ignore};

use super::health::{Health, NODE_MONITOR_GRACE_PERIOD, Verdict};
use super::ranges::give_range;
use super::taints::{is_taint, wanted_taints, write_taints};
use super::{eviction, ttl, volumes};

/// How long a pod may be on a node that isn't there before it counts as lost (upstream's `quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);

pub(super) struct NodeLifecycleController {
    pub(super) context: Context,
    pub(super) nodes: Informer<Node>,
    pods: Informer<Pod>,
    volumes: Informer<PersistentVolume>,
    health: Mutex<Health>,
    /// Nodes for which no range of addresses was left.
    pub(super) without_range: Mutex<HashSet<String>>,
}

/// The part of the cluster that fails together.
fn zone(node: &Node) -> String {
    let label = |key: &str| node.labels().get(key).map_or("", String::as_str);
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

pub fn start(context: Context) {
    let leases = context.informers.of::<Lease>();
    let state = NodeLifecycleController {
        nodes: context.informers.of(),
        pods: context.informers.of(),
        volumes: context.informers.of(),
        health: Mutex::default(),
        without_range: Mutex::default(),
        context: context.clone(),
    };
    let state = Arc::new(state);
    let mut controller = Controller::about(&context, &state.nodes);
    let own = state.clone();
    controller.watch(&state.nodes, move |change| own.node_changed(change));
    let own = state.clone();
    controller.watch(&leases, move |change| own.lease_changed(change.object()));
    let (queue, own) = (controller.queue().clone(), state.clone());
    controller.watch(&state.pods, move |change| own.pod_changed(&queue, change));
    // One worker, so that no two nodes get the same range.
    controller.run("node", 1, state);
}

impl NodeLifecycleController {
    /// Takes note of a node; returns it, and the other nodes for which that matters.
    fn node_changed(&self, change: &Change<Node>) -> Vec<Key> {
        let (node, now) = (change.object(), apimachinery::clock::now());
        let mut keys = vec![node.key()];
        let changed = match change {
            Change::Applied { .. } => self.health.lock().put(&node.name_any(), &zone(node), is_ready(node), now),
            Change::Deleted(_) => {
                let text = format!("Node {0} event: Removing Node {0} from Controller", node.name_any());
                self.context.events.normal(node.as_ref(), "RemovingNode", text);
                volumes::record_unavailable(&self.context, &self.volumes, &self.nodes, node, "is gone");
                // Its range is free for a node that got none.
                keys.extend(self.without_range.lock().drain().map(|name| Key::new("", &name)));
                self.health.lock().remove(&node.name_any(), now)
            }
        };
        if let Change::Applied { old: None, new } = change {
            let text = format!("Node {0} event: Registered Node {0} in Controller", new.name_any());
            self.context.events.normal(new.as_ref(), "RegisteredNode", text);
        }
        if changed {
            // From which unready nodes pods may be evicted has changed.
            keys.extend(self.nodes.list().iter().filter(|n| !is_ready(n)).map(|n| n.key()));
        }
        keys
    }

    fn lease_changed(&self, lease: &Lease) -> Option<Key> {
        let (name, now) = (lease.name_any(), apimachinery::clock::now());
        if lease.namespace().as_deref() != Some("kube-node-lease") {
            return None;
        }
        let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
        self.health.lock().observe_lease(&name, renewed, now);
        let key = Key::new("", &name);
        self.nodes.get(&key).is_some_and(|n| !is_ready(&n)).then_some(key)
    }

    /// The node of a pod that comes to a node that others have to leave, or goes from one that is out of service.
    fn pod_changed(&self, queue: &Queue, change: &Change<Pod>) -> Option<Key> {
        let Change::Applied { old, new } = change else { return None };
        let key = Key::new("", new.spec.as_ref()?.node_name.as_deref()?);
        let node = self.nodes.get(&key);
        if node.is_none() {
            // The node may be created yet; a pod of a node that never is gets deleted.
            queue.add_after(key.clone(), QUARANTINE);
        }
        let matters = old.as_ref().is_none_or(|old| {
            old.spec.as_ref().is_none_or(|s| s.node_name.is_none())
                || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        });
        let evicts = node.is_some_and(|n| taints(&n).iter().any(|t| t.effect == "NoExecute"));
        (matters && evicts).then_some(key)
    }
}

impl NodeLifecycleController {
    /// Takes the taint that evicts the pods of a lost node out of what is wanted, as long as too many nodes are lost at a time (upstream's rate
    /// limits by zone). Returns when the node is due again.
    fn limit_evictions(&self, node: &Node, wanted: &mut Vec<(&str, &str)>, now: Timestamp) -> Option<Duration> {
        let executes =
            |(key, effect): &(&str, &str)| *effect == "NoExecute" && matches!(*key, "not-ready" | "unreachable");
        let evicting = wanted.iter().copied().find(executes)?;
        let mut health = self.health.lock();
        if health.is_fully_disrupted() {
            wanted.retain(|w| !executes(w));
            return None;
        }
        if taints(node).iter().any(|t| is_taint(t, evicting)) {
            return None;
        }
        let (may_evict, again) = match health.may_evict(&node.name_any(), now) {
            Verdict::Yes => (true, None),
            Verdict::No => (false, None),
            Verdict::Later(wait) => (false, Duration::try_from(wait).ok()),
        };
        if !may_evict {
            wanted.retain(|w| !executes(w));
        }
        again
    }
}

impl Reconcile for NodeLifecycleController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(node) = self.nodes.get(key) else {
            // The cache may be behind: only the API itself knows that there is no such node.
            let nodes: Api<Node> = Api::all(self.context.client.clone());
            if nodes.get_metadata_opt(&key.name).await?.is_some() {
                return Ok(None);
            }
            return eviction::orphans(&self.context, &self.pods, &key.name).await.map(|()| None);
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        if node.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none()) {
            give_range(self, &node).await?;
        }
        ttl::annotate(&api, &node, self.nodes.list().len()).await?;
        let now = apimachinery::clock::now();
        let since_renewal = self.health.lock().since_renewal(&key.name, now);
        let lost = since_renewal > NODE_MONITOR_GRACE_PERIOD;
        let ready = node
            .status
            .as_ref()
            .and_then(|s| s.conditions.as_ref())
            .and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
        if lost && ready.is_none_or(|c| c.status != "Unknown") {
            tracing::warn!(node = key.name, "a node stopped renewing its lease; its Ready condition is now Unknown");
            self.context.events.normal(
                node.as_ref(),
                "NodeNotReady",
                format!("Node {} status is now: NodeNotReady", key.name),
            );
            mark_unknown(&api, &node).await?;
            volumes::record_unavailable(&self.context, &self.volumes, &self.nodes, &node, "is down");
            // The change brings the node here again.
            return Ok(None);
        }
        if ready.is_some_and(|c| c.status == "Unknown") {
            eviction::mark_unready(&self.context, &self.pods, &key.name).await?;
        }
        let mut wanted = wanted_taints(&node, lost);
        let again = self.limit_evictions(&node, &mut wanted, now);
        write_taints(&api, &node, &wanted).await?;
        let evicted = eviction::evict(&self.context, &self.pods, &node).await?;
        let grace_left = (!lost).then(|| {
            Duration::try_from(NODE_MONITOR_GRACE_PERIOD - since_renewal).unwrap_or_default()
                + Duration::from_millis(100)
        });
        Ok([again, evicted, grace_left].into_iter().flatten().min())
    }
}

/// The conditions of a node whose lease isn't renewed: each that isn't `Unknown` yet becomes it. The reason says whether its kubelet ever posted it.
fn unknown(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let known = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str| {
        let (reason, message) = match conditions::find(known, kind) {
            Some(c) if c.status == "Unknown" => return None,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(conditions::next(known, NewCondition::new(kind, "Unknown", reason, message), now))
    };
    ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].into_iter().filter_map(condition).collect()
}

async fn mark_unknown(api: &Api<Node>, node: &Node) -> Result {
    let patch = Patch::Strategic(json!({"status": {"conditions": unknown(node, apimachinery::clock::now())}}));
    ignore(api.patch_status(&node.name_any(), &PatchParams::default(), &patch).await, &[404])
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn conditions_of_a_lost_node_say_whether_its_kubelet_ever_posted_them() {
        let node = |conditions: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).unwrap()
        };
        let reasons = |conditions: Value| -> Vec<(String, String)> {
            let found = unknown(&node(conditions), Timestamp::UNIX_EPOCH).into_iter();
            found.map(|c| (c.type_, c.reason.unwrap_or_default())).collect()
        };
        let all = |ready: &str, pressure: &str| {
            [("Ready", ready), ("MemoryPressure", pressure), ("DiskPressure", pressure), ("PIDPressure", pressure)]
                .map(|(kind, reason)| (kind.to_string(), reason.to_string()))
        };
        assert_eq!(reasons(json!(null)), all("NodeStatusNeverUpdated", "NodeStatusNeverUpdated"));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(reasons(ready), all("NodeStatusUnknown", "NodeStatusNeverUpdated"));
        let known = json!([{"type": "Ready", "status": "Unknown"}, {"type": "Other", "status": "True"}]);
        assert_eq!(reasons(known), all("", "NodeStatusNeverUpdated")[1..]);
    }
}
