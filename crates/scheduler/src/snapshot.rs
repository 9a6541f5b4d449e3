//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use informer::{Key, Keyed as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

use crate::amounts::Amounts;
use crate::pod::{Labels, PodInfo};

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    pub name: String,
    /// `None` while pods are known, but not their node.
    pub node: Option<Arc<Node>>,
    pub allocatable: Amounts,
    pub used: Amounts,
    pub pods: BTreeMap<Key, Arc<PodInfo>>,
    /// How many of the pods have terms of affinity, or ports of the node.
    with_affinity: usize,
    with_ports: usize,
}

impl NodeState {
    pub fn new(node: Arc<Node>) -> Self {
        let mut state = NodeState { name: node.name_any(), ..NodeState::default() };
        state.put_node(node);
        state
    }

    fn put_node(&mut self, node: Arc<Node>) {
        self.allocatable = Amounts::read(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
        self.node = Some(node);
    }

    pub fn put(&mut self, key: Key, pod: Arc<PodInfo>) {
        self.used.add(&pod.amounts);
        self.with_affinity += usize::from(pod.has_affinity());
        self.with_ports += usize::from(!pod.ports.is_empty());
        self.pods.insert(key, pod);
    }

    pub fn take(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.used.subtract(&pod.amounts);
        self.with_affinity -= usize::from(pod.has_affinity());
        self.with_ports -= usize::from(!pod.ports.is_empty());
        Some(pod)
    }

    /// Pods with terms of affinity.
    pub fn with_affinity(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        let any = self.with_affinity > 0;
        self.pods.values().filter(move |p| any && p.has_affinity())
    }

    /// Pods that use ports of the node.
    pub fn with_ports(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        let any = self.with_ports > 0;
        self.pods.values().filter(move |p| any && !p.ports.is_empty())
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.labels().get(key).map(String::as_str)
    }
}

#[derive(Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    /// Where each pod is.
    places: HashMap<Key, String>,
    /// Pods for which room is being made, with the node.
    nominated: BTreeMap<Key, (String, Arc<PodInfo>)>,
    pub namespaces: BTreeMap<String, Labels>,
    /// Where the search for nodes goes on, so that all get their turn.
    pub next: String,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> + Clone {
        self.nodes.values().filter(|n| n.node.is_some())
    }

    /// All nodes, beginning after the one where the last search ended.
    pub fn nodes_in_turn(&self) -> impl Iterator<Item = &NodeState> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let after = self.nodes.range::<str, _>((Excluded(self.next.as_str()), Unbounded));
        let before = self.nodes.range::<str, _>((Unbounded, Included(self.next.as_str())));
        after.chain(before).map(|(_, state)| state).filter(|n| n.node.is_some())
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The same with one node as it would be.
    pub fn with(&self, state: NodeState) -> Snapshot {
        let mut nodes = self.nodes.clone();
        nodes.insert(state.name.clone(), state);
        Snapshot { nodes, namespaces: self.namespaces.clone(), ..Snapshot::default() }
    }

    pub fn has_pod(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn put_node(&mut self, node: Arc<Node>) {
        let name = node.name_any();
        let state = self.nodes.entry(name.clone()).or_default();
        state.name = name;
        state.put_node(node);
    }

    /// The pods stay known, as the node may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
        }
    }

    pub fn put_pod(&mut self, pod: Arc<Pod>) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let key = pod.key();
        self.assume(key, Arc::new(PodInfo::read(pod)), &node);
    }

    /// Counts a pod on a node from now on.
    pub fn assume(&mut self, key: Key, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&key);
        let state = self.nodes.entry(node.into()).or_default();
        state.name = node.into();
        state.put(key.clone(), pod);
        self.places.insert(key, node.into());
    }

    pub fn remove_pod(&mut self, key: &Key) {
        self.nominated.remove(key);
        let Some(node) = self.places.remove(key) else { return };
        if let Some(state) = self.nodes.get_mut(&node) {
            state.take(key);
        }
    }

    /// Keeps room for a pod on a node until it is there, or gone.
    pub fn nominate(&mut self, key: Key, pod: Arc<PodInfo>, node: &str) {
        self.nominated.insert(key, (node.into(), pod));
    }

    /// What is kept on a node for pods that are at least as important as `pod`.
    pub fn kept_for_others(&self, key: &Key, pod: &PodInfo, node: &str) -> Vec<(&Key, &Arc<PodInfo>)> {
        let of = self.nominated.iter().filter(|(_, (place, _))| place == node);
        let others = of.filter(|(other, (_, info))| *other != key && info.priority >= pod.priority);
        others.map(|(key, (_, info))| (key, info)).collect()
    }
}
