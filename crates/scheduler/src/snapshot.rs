//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use informer::{Key, Keyed as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

use crate::plan::{Amounts, NodeState, requests};

#[derive(Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    /// Where each pod is.
    places: HashMap<Key, String>,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> + Clone {
        self.nodes.values().filter(|n| n.node.is_some())
    }

    pub fn has_pod(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn put_node(&mut self, node: Arc<Node>) {
        let name = node.name_any();
        self.nodes.entry(name).or_default().node = Some(node);
    }

    /// The pods stay known, as the node may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
        }
    }

    pub fn put_pod(&mut self, pod: Arc<Pod>) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        self.assume(pod, &node);
    }

    /// Counts a pod on a node from now on.
    pub fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        let key = pod.key();
        self.remove_pod(&key);
        let state = self.nodes.entry(node.into()).or_default();
        state.used = state.used.plus(&requests(&pod));
        state.pods.insert(key.clone(), pod);
        self.places.insert(key, node.into());
    }

    pub fn remove_pod(&mut self, key: &Key) {
        let Some(node) = self.places.remove(key) else { return };
        let Some(state) = self.nodes.get_mut(&node) else { return };
        state.pods.remove(key);
        state.used = state.pods.values().map(|p| requests(p)).fold(Amounts::default(), |a, b| a.plus(&b));
    }
}
