//! What follows for one object from its owners and dependents. The rules are upstream's (`attemptToDeleteItem`).

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use crate::toolkit::discovery::Served;
use crate::toolkit::{Result, ignore};

/// Until an object is looked at again that changed meanwhile.
pub const AGAIN: Duration = Duration::from_millis(100);
/// Retry period of an object of which an owner is of a kind that isn't served (yet).
const UNKNOWN: Duration = Duration::from_secs(60);

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub api_version: String,
    pub kind: String,
    pub plural: String,
    /// Empty for objects without one.
    pub namespace: String,
    pub name: String,
}

impl Place {
    fn of(node: &Node) -> Self {
        Place {
            api_version: node.kind.api_version(),
            kind: node.kind.kind.into(),
            plural: node.kind.plural().into(),
            namespace: node.namespace.clone(),
            name: node.name.clone(),
        }
    }
}

/// The API, as far as the garbage collector needs it.
pub trait Objects: Send + Sync {
    /// The kind that a reference names, if it is served.
    fn kind(&self, api_version: &str, kind: &str) -> impl Future<Output = Result<Option<Served>>> + Send;
    fn get(&self, place: &Place) -> impl Future<Output = Result<Option<ObjectMeta>>> + Send;
    /// A merge patch; returns the new resource version.
    fn patch(&self, place: &Place, change: Value) -> impl Future<Output = Result<Option<String>>> + Send;
    /// Deletes the object that has this uid and version.
    fn delete(
        &self,
        place: &Place,
        uid: &str,
        version: Option<String>,
        policy: PropagationPolicy,
    ) -> impl Future<Output = Result> + Send;
    /// Records an event of an owner reference into another namespace, which has no effect.
    fn record_invalid_namespace(&self, place: &Place, uid: &str, reference: &OwnerReference);
}

/// What an owner reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// An owner that keeps its dependents.
    Solid,
    /// None: there is no such object.
    Dangling,
    /// An owner that is deleted in the foreground.
    Waiting,
    /// Unknown: the kind isn't served.
    Unknown,
    /// Nothing that could ever be: an object without a namespace can't have an owner in one.
    Impossible,
}

/// What is to be done next.
#[derive(Debug, Default)]
pub struct Next {
    pub look_at: Vec<String>,
    pub again: Option<Duration>,
}

pub struct Collector<'a, O> {
    pub objects: &'a O,
    pub graph: &'a Mutex<Graph>,
    /// Whether all kinds have been listed: before that, dependents may not be known yet.
    pub complete: bool,
}

impl<O: Objects> Collector<'_, O> {
    /// Deletes an object whose owners are gone, or does what its finalizers are for.
    ///
    /// # Errors
    /// An answer of the API other than that the object is gone or has changed.
    pub async fn collect(&self, uid: &str) -> Result<Next> {
        match self.attempt(uid).await {
            // It was changed meanwhile, perhaps let go: what it is now decides.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Next { again: Some(AGAIN), ..Next::default() }),
            // The watch will show that it is gone.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Next::default()),
            outcome => outcome,
        }
    }

    async fn attempt(&self, uid: &str) -> Result<Next> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Next::default()) };
        if node.deleting && node.orphan {
            return self.orphan(uid, &node).await;
        }
        if node.waits() {
            let blocking = self.graph.lock().blocking(uid);
            if blocking.is_empty() {
                self.release(uid, &node, FOREGROUND).await?;
                self.graph.lock().release(uid);
            }
            let graph = self.graph.lock();
            let idle = |uid: &String| graph.get(uid).is_some_and(|d| !d.waits());
            return Ok(Next { look_at: blocking.into_iter().filter(idle).collect(), again: None });
        }
        // What is deleted stays so.
        if node.deleting {
            return Ok(Next::default());
        }
        let place = Place::of(&node);
        let Some(meta) = self.objects.get(&place).await?.filter(|m| m.uid.as_deref() == Some(uid)) else {
            return Ok(Next::default());
        };
        let references = meta.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(Next::default());
        }
        let mut owners = Vec::with_capacity(references.len());
        for reference in &references {
            owners.push(self.classify(&place, uid, reference).await?);
        }
        if owners.contains(&Owner::Impossible) {
            return Ok(Next::default());
        }
        if owners.contains(&Owner::Unknown) {
            return Ok(Next { again: Some(UNKNOWN), ..Next::default() });
        }
        if owners.contains(&Owner::Solid) {
            let solid = |(r, owner): (&OwnerReference, &Owner)| (*owner == Owner::Solid).then(|| r.clone());
            let kept: Vec<OwnerReference> = references.iter().zip(&owners).filter_map(solid).collect();
            if kept.len() < references.len() {
                self.refer(&place, &meta, &kept).await?;
            }
            return Ok(Next::default());
        }
        self.delete(&place, uid, &meta, owners.contains(&Owner::Waiting)).await
    }

    async fn classify(&self, place: &Place, uid: &str, reference: &OwnerReference) -> Result<Owner> {
        {
            let graph = self.graph.lock();
            if graph.is_absent(reference, &place.namespace) {
                return Ok(Owner::Dangling);
            }
            if let Some(owner) = graph.get(&reference.uid) {
                if owner.kind.namespaced && owner.namespace != place.namespace {
                    self.objects.record_invalid_namespace(place, uid, reference);
                }
                // An owner that is here may be gone already: then the watch is about to show it. That it waits for its dependents may be over:
                // another owner that holds it keeps them, so for a deletion the API is asked.
                if owner.is_meant_by(reference, &place.namespace) && !owner.waits() {
                    return Ok(Owner::Solid);
                }
            }
        }
        // One watch may be behind another, so the API has the last word about what isn't here.
        let Some(served) = self.objects.kind(&reference.api_version, &reference.kind).await? else {
            return Ok(Owner::Unknown);
        };
        if served.namespaced && place.namespace.is_empty() {
            self.objects.record_invalid_namespace(place, uid, reference);
            return Ok(Owner::Impossible);
        }
        let owner = Place {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
            plural: served.plural,
            namespace: if served.namespaced { place.namespace.clone() } else { String::new() },
            name: reference.name.clone(),
        };
        match self.objects.get(&owner).await?.filter(|m| m.uid.as_ref() == Some(&reference.uid)) {
            None => {
                self.graph.lock().remember_absent(reference, &owner.namespace);
                Ok(Owner::Dangling)
            }
            Some(meta) => {
                let foreground = meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                let waits = meta.deletion_timestamp.is_some() && foreground;
                Ok(if waits { Owner::Waiting } else { Owner::Solid })
            }
        }
    }

    /// Deletes an object without an owner that keeps it; `waited_for` if an owner waits until it is gone.
    async fn delete(&self, place: &Place, uid: &str, meta: &ObjectMeta, waited_for: bool) -> Result<Next> {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let mut version = meta.resource_version.clone();
        let mut policy = PropagationPolicy::Background;
        let (dependents, circle) = {
            let graph = self.graph.lock();
            let waits = |uid: &str| graph.get(uid).is_some_and(Node::waits);
            (graph.dependents_of(uid).next().is_some(), graph.dependents_of(uid).any(waits))
        };
        if waited_for && dependents {
            // Of a circle of owners one has to be the first to go.
            let mut references = meta.owner_references.clone().unwrap_or_default();
            if circle && references.iter().any(|r| r.block_owner_deletion == Some(true)) {
                references.iter_mut().for_each(|r| r.block_owner_deletion = Some(false));
                version = self.refer(place, meta, &references).await?;
            }
            policy = PropagationPolicy::Foreground;
        } else if has(ORPHAN) {
            policy = PropagationPolicy::Orphan;
        } else if has(FOREGROUND) {
            policy = PropagationPolicy::Foreground;
        }
        self.objects.delete(place, uid, version, policy).await?;
        Ok(Next::default())
    }

    /// Gives an object other owner references, if it still is what was looked at.
    async fn refer(&self, place: &Place, meta: &ObjectMeta, references: &[OwnerReference]) -> Result<Option<String>> {
        let change = json!({"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references});
        self.objects.patch(place, json!({ "metadata": change })).await
    }

    /// Lets the dependents of an object be: they lose their reference, then the object goes.
    async fn orphan(&self, uid: &str, node: &Node) -> Result<Next> {
        if !self.complete {
            return Ok(Next { again: Some(UNKNOWN), ..Next::default() });
        }
        let dependents: Vec<(String, Place)> = {
            let graph = self.graph.lock();
            let place = |d: &str| Some((d.to_string(), Place::of(graph.get(d)?)));
            graph.dependents_of(uid).filter_map(place).collect()
        };
        for (dependent, place) in dependents {
            let found = self.objects.get(&place).await?.filter(|m| m.uid.as_ref() == Some(&dependent));
            let Some(meta) = found else { continue };
            let kept: Vec<OwnerReference> =
                meta.owner_references.iter().flatten().filter(|o| o.uid != uid).cloned().collect();
            if kept.len() < meta.owner_references.iter().flatten().count() {
                ignore(self.refer(&place, &meta, &kept).await, &[404])?;
            }
        }
        self.release(uid, node, ORPHAN).await?;
        Ok(Next::default())
    }

    /// Removes one finalizer; those of others stay.
    async fn release(&self, uid: &str, node: &Node, finalizer: &str) -> Result {
        let place = Place::of(node);
        let Some(meta) = self.objects.get(&place).await?.filter(|m| m.uid.as_deref() == Some(uid)) else {
            return Ok(());
        };
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        if left.len() < meta.finalizers.iter().flatten().count() {
            let change = json!({"uid": uid, "resourceVersion": meta.resource_version, "finalizers": left});
            self.objects.patch(&place, json!({ "metadata": change })).await?;
        }
        Ok(())
    }
}
