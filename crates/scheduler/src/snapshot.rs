//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change.
//!
//! A decision looks at hundreds of nodes; what it would ask of each pod on them is kept counted: pods with the same
//! labels are a [`Group`], and those of one controller are siblings, each with how many of them a node has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use informer::{Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use crate::amounts::Amounts;
use crate::pod::{Kin, Labels, PodInfo};

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// Its place in the snapshot.
    pub id: usize,
    pub name: String,
    /// `None` while pods are known, but not their node.
    pub node: Option<Arc<Node>>,
    pub allocatable: Amounts,
    pub used: Amounts,
    /// The images that it has, with their sizes in bytes.
    pub images: Arc<HashMap<String, i64>>,
    pub pods: BTreeMap<Key, Arc<PodInfo>>,
    /// How many of the pods have ports of the node.
    with_ports: usize,
}

impl NodeState {
    pub fn put(&mut self, key: Key, pod: Arc<PodInfo>) {
        self.used.add(&pod.amounts);
        self.with_ports += usize::from(!pod.ports.is_empty());
        self.pods.insert(key, pod);
    }

    pub fn take(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.used.subtract(&pod.amounts);
        self.with_ports -= usize::from(!pod.ports.is_empty());
        Some(pod)
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

/// How many pods each node has of some kind.
pub type Counts = HashMap<usize, u32>;

/// Counts one pod more or less.
fn count(counts: &mut Counts, node: usize, more: bool) {
    let number = counts.entry(node).or_default();
    *number = if more { *number + 1 } else { number.saturating_sub(1) };
    if *number == 0 {
        counts.remove(&node);
    }
}

#[derive(Default, Clone)]
pub struct Snapshot {
    nodes: Vec<NodeState>,
    ids: HashMap<String, usize>,
    /// How many nodes there are; of others only pods are known.
    known: usize,
    /// Where each pod is.
    places: HashMap<Key, usize>,
    groups: HashMap<Arc<Kin>, Counts>,
    siblings: HashMap<String, Counts>,
    /// Pods that have terms about others.
    affine: HashSet<Key>,
    /// How many nodes have each value of each label.
    domains: HashMap<String, BTreeMap<String, usize>>,
    /// How many nodes have each image.
    images: HashMap<String, usize>,
    /// Pods for which room is being made, with the node.
    nominated: BTreeMap<Key, (usize, Arc<PodInfo>)>,
    pub namespaces: BTreeMap<String, Labels>,
    /// Where the search for nodes goes on, so that all get their turn.
    pub next: usize,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.iter().filter(|n| n.node.is_some())
    }

    pub fn node(&self, id: usize) -> Option<&NodeState> {
        self.nodes.get(id).filter(|n| n.node.is_some())
    }

    pub fn named(&self, name: &str) -> Option<&NodeState> {
        self.node(*self.ids.get(name)?)
    }

    /// All nodes, beginning where the last search ended.
    pub fn nodes_in_turn(&self) -> impl Iterator<Item = &NodeState> {
        let (before, after) = self.nodes.split_at(self.next.min(self.nodes.len()));
        after.iter().chain(before).filter(|n| n.node.is_some())
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes there are.
    pub fn known(&self) -> usize {
        self.known
    }

    /// How many nodes have an image.
    pub fn holders(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Pods by what others can choose them by, with where they are.
    pub fn groups(&self) -> impl Iterator<Item = (&Kin, &Counts)> {
        self.groups.iter().map(|(kin, counts)| (kin.as_ref(), counts))
    }

    /// How many pods of a controller each node has.
    pub fn siblings(&self, owner: &str) -> Option<&Counts> {
        self.siblings.get(owner)
    }

    /// Pods that have terms about others, with their nodes.
    pub fn affine(&self) -> impl Iterator<Item = (&NodeState, &PodInfo)> {
        self.affine.iter().filter_map(|key| {
            let state = self.node(*self.places.get(key)?)?;
            Some((state, state.pods.get(key)?.as_ref()))
        })
    }

    /// The values that nodes have of a label.
    pub fn domains(&self, label: &str) -> impl Iterator<Item = &String> {
        self.domains.get(label).into_iter().flat_map(BTreeMap::keys)
    }

    /// The same without some pods.
    pub fn without<'a>(&self, pods: impl Iterator<Item = &'a Key>) -> Snapshot {
        let mut rest = self.clone();
        pods.for_each(|key| rest.remove_pod(key));
        rest
    }

    pub fn has_pod(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    fn id(&mut self, name: &str) -> usize {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.nodes.len();
        self.nodes.push(NodeState { id, name: name.into(), ..NodeState::default() });
        self.ids.insert(name.into(), id);
        id
    }

    pub fn put_node(&mut self, node: Arc<Node>) {
        let id = self.id(&node.name_any());
        self.forget_domains(id);
        for (key, value) in node.labels() {
            *self.domains.entry(key.clone()).or_default().entry(value.clone()).or_default() += 1;
        }
        let listed = node.status.as_ref().and_then(|s| s.images.as_ref()).into_iter().flatten();
        let named =
            listed.flat_map(|image| image.names.iter().flatten().map(|n| (n.clone(), image.size_bytes.unwrap_or(0))));
        let images: HashMap<String, i64> = named.collect();
        for image in images.keys() {
            *self.images.entry(image.clone()).or_default() += 1;
        }
        let state = &mut self.nodes[id];
        state.images = Arc::new(images);
        state.allocatable = Amounts::read(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
        state.node = Some(node);
        self.known += 1;
    }

    fn forget_domains(&mut self, id: usize) {
        let Some(node) = self.nodes[id].node.take() else { return };
        self.known -= 1;
        for image in std::mem::take(&mut self.nodes[id].images).keys() {
            if let Some(number) = self.images.get_mut(image) {
                *number -= 1;
                if *number == 0 {
                    self.images.remove(image);
                }
            }
        }
        for (key, value) in node.labels() {
            if let Some(values) = self.domains.get_mut(key)
                && let Some(number) = values.get_mut(value)
            {
                *number -= 1;
                if *number == 0 {
                    values.remove(value);
                }
            }
        }
    }

    /// The pods stay known, as the node may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(id) = self.ids.get(name).copied() {
            self.forget_domains(id);
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
        let id = self.id(node);
        self.count(&key, &pod, id, true);
        self.nodes[id].put(key.clone(), pod);
        self.places.insert(key, id);
    }

    fn count(&mut self, key: &Key, pod: &PodInfo, id: usize, more: bool) {
        let group = self.groups.entry(pod.kin.clone()).or_default();
        count(group, id, more);
        if group.is_empty() {
            self.groups.remove(&pod.kin);
        }
        if let Some(owner) = &pod.owner {
            let siblings = self.siblings.entry(owner.clone()).or_default();
            count(siblings, id, more);
            if siblings.is_empty() {
                self.siblings.remove(owner);
            }
        }
        match more && pod.has_affinity() {
            true => self.affine.insert(key.clone()),
            false => self.affine.remove(key),
        };
    }

    pub fn remove_pod(&mut self, key: &Key) {
        self.nominated.remove(key);
        let Some(id) = self.places.remove(key) else { return };
        if let Some(pod) = self.nodes[id].take(key) {
            self.count(key, &pod, id, false);
        }
    }

    /// Keeps room for a pod on a node until it is there, or gone.
    pub fn nominate(&mut self, key: Key, pod: Arc<PodInfo>, node: &str) {
        let id = self.id(node);
        self.nominated.insert(key, (id, pod));
    }

    /// What is kept on a node for pods that are at least as important as `pod`.
    pub fn kept_for_others(&self, key: &Key, pod: &PodInfo, node: usize) -> Vec<(&Key, &Arc<PodInfo>)> {
        let of = self.nominated.iter().filter(|(_, (place, _))| *place == node);
        let others = of.filter(|(other, (_, info))| *other != key && info.priority >= pod.priority);
        others.map(|(key, (_, info))| (key, info)).collect()
    }
}
