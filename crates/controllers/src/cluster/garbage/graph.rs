//! The graph of owners and dependents, as the watches show it (upstream's `graph_builder`).

use std::collections::{HashMap, HashSet};

use api::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Owners that are known to be gone, until they are forgotten (they can be asked for again).
const MAX_ABSENT_OWNERS: usize = 4096;

/// An owner reference, as far as the graph goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub uid: String,
    /// Whether an owner that is deleted in the foreground waits for the dependent (`blockOwnerDeletion`).
    pub blocks: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    /// It has the finalizer of foreground deletion.
    pub foreground: bool,
    /// It has the finalizer that lets its dependents be.
    pub orphan: bool,
}

impl Node {
    pub fn new(kind: &'static Kind, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let owner = |o: &OwnerReference| Owner { uid: o.uid.clone(), blocks: o.block_owner_deletion == Some(true) };
        Node {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.iter().flatten().map(owner).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// It is deleted, and waits until its dependents are gone.
    pub fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether this is what `reference` of an object in `namespace` means: kind, name and place must be right, not the uid alone.
    /// The version isn't compared, as objects are the same in all versions.
    pub fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.kind.group == group
            && self.kind.kind == reference.kind
            && self.name == reference.name
            && (!self.kind.namespaced || self.namespace == namespace)
    }

    /// Whether an owner of a kind like `self` can own `dependent`: one of the same namespace, or of none.
    fn may_own(&self, dependent: &Node) -> bool {
        !self.kind.namespaced || self.namespace == dependent.namespace
    }
}

/// What was found to be gone: uid, group and kind, namespace, name.
type Coordinates = (String, String, String, String);

fn coordinates(reference: &OwnerReference, namespace: &str) -> Coordinates {
    let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = format!("{}.{group}", reference.kind);
    (reference.uid.clone(), kind, namespace.into(), reference.name.clone())
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    absent: HashSet<Coordinates>,
    /// The uids of objects that wait for their dependents no more, though a watch that is behind may still show that they do.
    released: HashSet<String>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes in an object as a watch shows it; returns the uids of the objects to process.
    pub fn put(&mut self, uid: &str, mut node: Node) -> Vec<String> {
        node.foreground &= !self.released.contains(uid);
        let old = self.nodes.get(uid);
        if old == Some(&node) {
            return Vec::new();
        }
        let mut look_at = Vec::new();
        if !node.owners.is_empty() || node.deleting {
            look_at.push(uid.to_string());
        }
        if node.waits() && !old.is_some_and(Node::waits) {
            look_at.extend(self.dependents_of(uid).map(ToString::to_string));
        }
        // An owner may have waited for the reference that is no longer there, or no longer holds it.
        let was_held = old.into_iter().flat_map(|old| &old.owners).filter(|o| o.blocks && !node.owners.contains(o));
        look_at.extend(self.waiting(was_held));
        self.unlink(uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_string());
        }
        self.nodes.insert(uid.to_string(), node);
        look_at
    }

    /// The collector took the finalizer of foreground deletion from an object. What is deleted gets no finalizer any more, so this holds
    /// whatever a watch, which may be behind, tells of it: of a circle of owners only the first to go doesn't wait for the others.
    pub fn release(&mut self, uid: &str) {
        if let Some(node) = self.nodes.get_mut(uid) {
            node.foreground = false;
            self.released.insert(uid.to_string());
        }
    }

    /// An object is gone; returns the uids of those that are to be looked at: what it owned, and what waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let mut look_at: Vec<String> = self.dependents_of(uid).map(ToString::to_string).collect();
        look_at.extend(self.waiting(node.owners.iter()));
        let kind = format!("{}.{}", node.kind.kind, node.kind.group);
        let gone = (uid.to_string(), kind, node.namespace.clone(), node.name.clone());
        if !look_at.is_empty() {
            self.remember(gone);
        }
        self.unlink(uid);
        self.nodes.remove(uid);
        self.released.remove(uid);
        look_at
    }

    fn waiting<'a>(&self, owners: impl Iterator<Item = &'a Owner>) -> Vec<String> {
        owners.filter(|o| self.nodes.get(&o.uid).is_some_and(Node::waits)).map(|o| o.uid.clone()).collect()
    }

    fn unlink(&mut self, uid: &str) {
        let Some(old) = self.nodes.get(uid) else { return };
        for owner in &old.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Drops all objects of a kind that is no longer served. Nothing follows from that for those that they own.
    pub fn forget(&mut self, kind: &Kind) {
        let gone: Vec<String> = self.nodes.iter().filter(|(_, n)| n.kind == kind).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.unlink(&uid);
            self.nodes.remove(&uid);
            self.released.remove(&uid);
        }
    }

    /// Those of a kind that aren't among `listed`.
    pub fn missing(&self, kind: &'static Kind, listed: &HashSet<String>) -> Vec<String> {
        let of_kind = self.nodes.iter().filter(|(uid, n)| std::ptr::eq(n.kind, kind) && !listed.contains(*uid));
        of_kind.map(|(uid, _)| uid.clone()).collect()
    }

    pub fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &str> {
        self.dependents.get(uid).into_iter().flatten().map(String::as_str)
    }

    /// The dependents that the object waits for when it is deleted in the foreground. Upstream also waits for those whose reference can't
    /// be valid, as it leads to another namespace, and for those that wait for the object in turn, as all of a circle are deleted in the
    /// foreground: with either it would wait for ever.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let waiting = self.waiting_for(uid);
        let blocks = |dependent: &&str| {
            !waiting.contains(*dependent)
                && self
                    .nodes
                    .get(*dependent)
                    .is_some_and(|d| node.may_own(d) && d.owners.iter().any(|o| o.uid == uid && o.blocks))
        };
        self.dependents_of(uid).filter(blocks).map(ToString::to_string).collect()
    }

    /// All that are deleted in the foreground and wait for an object, also by way of others.
    fn waiting_for<'a>(&'a self, uid: &'a str) -> HashSet<&'a str> {
        let (mut found, mut open) = (HashSet::new(), vec![uid]);
        while let Some(next) = open.pop() {
            let Some(node) = self.nodes.get(next) else { continue };
            for owner in node.owners.iter().filter(|o| o.blocks) {
                let waits = self.nodes.get(&owner.uid).is_some_and(|o| o.waits() && o.may_own(node));
                if waits && found.insert(owner.uid.as_str()) {
                    open.push(&owner.uid);
                }
            }
        }
        found
    }

    pub fn remember_absent(&mut self, reference: &OwnerReference, namespace: &str) {
        self.remember(coordinates(reference, namespace));
    }

    fn remember(&mut self, gone: Coordinates) {
        if self.absent.len() >= MAX_ABSENT_OWNERS {
            self.absent.clear();
        }
        self.absent.insert(gone);
    }

    /// Whether it is known that what a reference means is gone. No uid ever comes back.
    pub fn is_absent(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.absent.contains(&coordinates(reference, namespace)) || self.absent.contains(&coordinates(reference, ""))
    }
}
