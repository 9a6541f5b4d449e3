//! Changes of objects keep the snapshot up to date, queue pods, and wake those that wait (upstream's `eventhandlers.go`).

use std::collections::HashSet;
use std::sync::Arc;

use informer::{Change, Informers, Key, Keyed as _, Queue};
use k8s_openapi::api::core::v1::{Namespace, Node, Taint};
use kube::ResourceExt as _;
use parking_lot::Mutex;

use crate::resources::ResourceList;
use crate::{Scheduler, is_assigned, is_ours};

/// Unschedulable pods, which wait for a change that may make them schedulable. Clones share them.
#[derive(Clone)]
pub(crate) struct Waiting {
    keys: Arc<Mutex<HashSet<Key>>>,
    queue: Queue,
}

impl Waiting {
    pub(crate) fn new(queue: &Queue) -> Self {
        Waiting { keys: Arc::default(), queue: queue.clone() }
    }

    pub(crate) fn park(&self, key: Key) {
        self.keys.lock().insert(key);
    }

    pub(crate) fn remove(&self, key: &Key) {
        self.keys.lock().remove(key);
    }

    /// Queues all of them again.
    fn wake(&self) {
        self.keys.lock().drain().for_each(|key| self.queue.add(key));
    }
}

impl Scheduler {
    /// Registers the handlers of all kinds.
    pub(crate) fn handle_events(&self, informers: &Informers, queue: &Queue, waiting: &Waiting) {
        self.handle_nodes(informers, waiting);
        self.handle_namespaces(informers, waiting);
        self.handle_pods(queue, waiting);
        let wake = waiting.clone();
        self.claims.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.volumes.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.classes.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.capacities.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.drivers.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.resource_claims.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.slices.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.device_classes.on_change(move |_| wake.wake());
        let wake = waiting.clone();
        self.taint_rules.on_change(move |_| wake.wake());
    }

    fn handle_nodes(&self, informers: &Informers, waiting: &Waiting) {
        let (snapshot, waiting) = (self.snapshot.clone(), waiting.clone());
        informers.of::<Node>().on_change(move |change| {
            match change {
                Change::Applied { old, new } => {
                    snapshot.lock().put_node(new.clone());
                    if old.as_ref().is_some_and(|old| !is_schedulable_after_node_change(old, new)) {
                        return;
                    }
                }
                Change::Deleted(old) => snapshot.lock().remove_node(&old.name_any()),
            }
            waiting.wake();
        });
    }

    fn handle_namespaces(&self, informers: &Informers, waiting: &Waiting) {
        let (snapshot, waiting) = (self.snapshot.clone(), waiting.clone());
        informers.of::<Namespace>().on_change(move |change| {
            let namespace = change.object();
            match change {
                Change::Applied { new, .. } => {
                    snapshot.lock().namespaces.insert(new.name_any(), new.labels().clone());
                }
                Change::Deleted(_) => {
                    snapshot.lock().namespaces.remove(&namespace.name_any());
                }
            }
            waiting.wake();
        });
    }

    fn handle_pods(&self, queue: &Queue, waiting: &Waiting) {
        let (snapshot, queue, waiting) = (self.snapshot.clone(), queue.clone(), waiting.clone());
        let (profiles, reserved) = (self.profiles.clone(), self.reserved.clone());
        self.pods.on_change(move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) || pod.is_over() {
                snapshot.lock().remove_pod(&pod.key());
                reserved.lock().remove(&pod.key());
                if is_assigned(pod) {
                    waiting.wake();
                }
            } else if is_assigned(pod) {
                snapshot.lock().put_pod(pod.clone());
            } else if pod.metadata.deletion_timestamp.is_none() && is_ours(pod, &profiles) {
                // Higher priority first.
                let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                queue.add_with_priority(pod.key(), -priority);
            }
        });
    }
}

/// Whether a change of a node may make pods schedulable there (upstream's queueing hints); heartbeats don't.
fn is_schedulable_after_node_change(old: &Node, new: &Node) -> bool {
    fn of(node: &Node) -> (Option<&ResourceList>, Option<&Vec<Taint>>, Option<bool>) {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let closed = spec.and_then(|s| s.unschedulable);
        (status.and_then(|s| s.allocatable.as_ref()), spec.and_then(|s| s.taints.as_ref()), closed)
    }
    old.labels() != new.labels() || of(old) != of(new)
}
