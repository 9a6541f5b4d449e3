//! The scheduler's cache of nodes and their pods, updated with each event (upstream's cache and snapshot).
//!
//! A decision looks at hundreds of nodes, so the pods on them are counted beforehand: by namespace and labels ([`PodGroupKey`]), and by
//! owner, for each node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use informer::{Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use crate::pod::{Labels, PodGroupKey, PodInfo};
use crate::resources::Resources;

/// A node with its pods (upstream's `NodeInfo`).
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// Its index in the snapshot.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// `None` while pods of it are known, but not the node itself.
    pub node: Option<Arc<Node>>,
    /// Its allocatable resources.
    pub allocatable: Resources,
    /// The sum of its pods' requests.
    pub used: Resources,
    /// The images that it has, with their sizes in bytes.
    pub images: Arc<HashMap<String, i64>>,
    /// Its pods.
    pub pods: BTreeMap<Key, Arc<PodInfo>>,
    /// Number of pods with host ports.
    with_ports: usize,
}

impl NodeState {
    /// Adds a pod.
    pub fn put(&mut self, key: Key, pod: Arc<PodInfo>) {
        self.used.add(&pod.resources);
        self.with_ports += usize::from(!pod.ports.is_empty());
        self.pods.insert(key, pod);
    }

    /// Removes a pod.
    pub fn take(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.used.subtract(&pod.resources);
        self.with_ports -= usize::from(!pod.ports.is_empty());
        Some(pod)
    }

    /// Pods with host ports.
    pub fn with_ports(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        let any = self.with_ports > 0;
        self.pods.values().filter(move |p| any && !p.ports.is_empty())
    }

    /// The value of a label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.labels().get(key).map(String::as_str)
    }
}

/// Number of pods by node id.
pub type Counts = HashMap<usize, u32>;

/// Adds or removes one pod.
fn count(counts: &mut Counts, node: usize, more: bool) {
    let number = counts.entry(node).or_default();
    *number = if more { *number + 1 } else { number.saturating_sub(1) };
    if *number == 0 {
        counts.remove(&node);
    }
}

/// Nodes and pods, as of the last event.
#[derive(Default, Clone)]
pub struct Snapshot {
    nodes: Vec<NodeState>,
    ids: HashMap<String, usize>,
    /// Number of nodes; of further entries only pods are known.
    known: usize,
    /// The node of each pod.
    places: HashMap<Key, usize>,
    groups: HashMap<Arc<PodGroupKey>, Counts>,
    pods_of_owner: HashMap<String, Counts>,
    /// Pods with inter-pod affinity or anti-affinity terms.
    pods_with_affinity: HashSet<Key>,
    /// Number of nodes by label and value.
    domains: HashMap<String, BTreeMap<String, usize>>,
    /// Number of nodes by image.
    images: HashMap<String, usize>,
    /// Nominated pods, with their node.
    nominated: BTreeMap<Key, (usize, Arc<PodInfo>)>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Where the next search starts, so that all nodes are considered in turn (upstream's `nextStartNodeIndex`).
    pub next: usize,
}

impl Snapshot {
    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.iter().filter(|n| n.node.is_some())
    }

    /// The node with this id.
    pub fn node(&self, id: usize) -> Option<&NodeState> {
        self.nodes.get(id).filter(|n| n.node.is_some())
    }

    /// The node with this name.
    pub fn node_by_name(&self, name: &str) -> Option<&NodeState> {
        self.node(*self.ids.get(name)?)
    }

    /// All nodes, starting at `next`.
    pub fn nodes_from_next(&self) -> impl Iterator<Item = &NodeState> {
        let (before, after) = self.nodes.split_at(self.next.min(self.nodes.len()));
        after.iter().chain(before).filter(|n| n.node.is_some())
    }

    /// Number of entries, with those of removed nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes there are.
    pub fn known(&self) -> usize {
        self.known
    }

    /// Number of nodes with an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Pods by namespace and labels, with their number on each node.
    pub fn groups(&self) -> impl Iterator<Item = (&PodGroupKey, &Counts)> {
        self.groups.iter().map(|(group_key, counts)| (group_key.as_ref(), counts))
    }

    /// Number of pods of an owner on each node.
    pub fn pods_of_owner(&self, owner: &str) -> Option<&Counts> {
        self.pods_of_owner.get(owner)
    }

    /// Pods with inter-pod affinity or anti-affinity terms, with their nodes.
    pub fn pods_with_affinity(&self) -> impl Iterator<Item = (&NodeState, &PodInfo)> {
        self.pods_with_affinity.iter().filter_map(|key| {
            let state = self.node(*self.places.get(key)?)?;
            Some((state, state.pods.get(key)?.as_ref()))
        })
    }

    /// The values of a label of nodes.
    pub fn domains(&self, label: &str) -> impl Iterator<Item = &String> {
        self.domains.get(label).into_iter().flat_map(BTreeMap::keys)
    }

    /// A copy without some pods.
    pub fn without<'a>(&self, pods: impl Iterator<Item = &'a Key>) -> Snapshot {
        let mut rest = self.clone();
        pods.for_each(|key| rest.remove_pod(key));
        rest
    }

    /// Whether a pod is counted on a node.
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

    /// Adds or updates a node.
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
        state.allocatable = Resources::read(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
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

    /// Removes a node. Its pods stay known, as it may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(id) = self.ids.get(name).copied() {
            self.forget_domains(id);
        }
    }

    /// Adds or updates a pod.
    pub fn put_pod(&mut self, pod: Arc<Pod>) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let key = pod.key();
        self.assume(key, Arc::new(PodInfo::read(pod)), &node);
    }

    /// Counts a pod on a node before the API shows it there (upstream's AssumePod).
    pub fn assume(&mut self, key: Key, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&key);
        let id = self.id(node);
        self.count(&key, &pod, id, true);
        self.nodes[id].put(key.clone(), pod);
        self.places.insert(key, id);
    }

    fn count(&mut self, key: &Key, pod: &PodInfo, id: usize, more: bool) {
        let group = self.groups.entry(pod.group_key.clone()).or_default();
        count(group, id, more);
        if group.is_empty() {
            self.groups.remove(&pod.group_key);
        }
        if let Some(owner) = &pod.owner {
            let pods_of_owner = self.pods_of_owner.entry(owner.clone()).or_default();
            count(pods_of_owner, id, more);
            if pods_of_owner.is_empty() {
                self.pods_of_owner.remove(owner);
            }
        }
        match more && pod.has_affinity() {
            true => self.pods_with_affinity.insert(key.clone()),
            false => self.pods_with_affinity.remove(key),
        };
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, key: &Key) {
        self.nominated.remove(key);
        let Some(id) = self.places.remove(key) else { return };
        if let Some(pod) = self.nodes[id].take(key) {
            self.count(key, &pod, id, false);
        }
    }

    /// Nominates a pod on a node until it is bound or deleted.
    pub fn nominate(&mut self, key: Key, pod: Arc<PodInfo>, node: &str) {
        let id = self.id(node);
        self.nominated.insert(key, (id, pod));
    }

    /// The nominated pods of a node with at least the priority of `pod`.
    pub fn nominated_with_priority(&self, key: &Key, pod: &PodInfo, node: usize) -> Vec<(&Key, &Arc<PodInfo>)> {
        let of = self.nominated.iter().filter(|(_, (place, _))| *place == node);
        let others = of.filter(|(other, (_, info))| *other != key && info.priority >= pod.priority);
        others.map(|(key, (_, info))| (key, info)).collect()
    }
}
