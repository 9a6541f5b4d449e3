//! A model of the API, whose watches show changes late and each kind at its own pace.

use std::collections::{BTreeMap, VecDeque};

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::super::collect::AGAIN;
use super::super::*;

pub(super) const NAMESPACES: [&str; 2] = ["n0", "n1"];
/// A finalizer of another controller, which removes it when it is done.
pub(super) const HOLD: &str = "example.com/hold";
/// A group that no API server serves.
pub(super) const UNKNOWN: &str = "ghosts.example.com/v1";

pub(super) fn kinds() -> [&'static Kind; 3] {
    let find = |group, plural| KINDS.iter().find(|k| k.group == group && k.plural() == plural).unwrap();
    [find("", "configmaps"), find("", "secrets"), find("rbac.authorization.k8s.io", "clusterroles")]
}

#[derive(Clone)]
pub(super) struct Object {
    pub(super) kind: &'static Kind,
    pub(super) meta: ObjectMeta,
}

impl Object {
    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.meta.finalizers.iter().flatten().any(|f| f == finalizer)
    }

    pub(super) fn waits(&self) -> bool {
        self.meta.deletion_timestamp.is_some() && self.has(graph::FOREGROUND)
    }

    pub(super) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or("")
    }

    pub(super) fn references(&self) -> &[OwnerReference] {
        self.meta.owner_references.as_deref().unwrap_or_default()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Object>,
    /// What the watch of each kind will show.
    pub(super) events: BTreeMap<&'static str, VecDeque<(String, Option<Node>)>>,
    /// What users will delete while the collector is in the midst of something.
    pub(super) interruptions: VecDeque<(String, PropagationPolicy)>,
    pub(super) versions: u64,
    pub(super) foreign: usize,
}

#[derive(Default)]
pub(super) struct Model(pub(super) Mutex<State>);

pub(super) fn refused(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }))
}

impl State {
    pub(super) fn show(&mut self, uid: &str) {
        self.versions += 1;
        let version = self.versions.to_string();
        let Some(object) = self.objects.get_mut(uid) else { return };
        object.meta.resource_version = Some(version);
        let finished = object.meta.deletion_timestamp.is_some() && object.meta.finalizers.iter().flatten().count() == 0;
        let (kind, node) = (object.kind, Node::new(object.kind, &object.meta));
        if finished {
            self.objects.remove(uid);
        }
        self.events.entry(kind.plural()).or_default().push_back((uid.into(), (!finished).then_some(node)));
    }

    pub(super) fn delete(&mut self, uid: &str, policy: &PropagationPolicy) {
        let Some(object) = self.objects.get_mut(uid).filter(|o| o.meta.deletion_timestamp.is_none()) else { return };
        object.meta.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let finalizers = object.meta.finalizers.get_or_insert_default();
        finalizers.retain(|f| f != graph::FOREGROUND && f != graph::ORPHAN);
        match policy {
            PropagationPolicy::Foreground => finalizers.push(graph::FOREGROUND.into()),
            PropagationPolicy::Orphan => finalizers.push(graph::ORPHAN.into()),
            PropagationPolicy::Background => {}
        }
        self.show(uid);
    }

    /// Whoever holds an object lets it go.
    pub(super) fn release(&mut self, uid: &str) {
        let Some(object) = self.objects.get_mut(uid).filter(|o| o.has(HOLD)) else { return };
        object.meta.finalizers.get_or_insert_default().retain(|f| f != HOLD);
        self.show(uid);
    }

    /// The owner that a reference of `of` means, by upstream's rules for what a reference means.
    pub(super) fn owner(&self, of: &Object, reference: &OwnerReference) -> Option<&Object> {
        let owner = self.objects.get(&reference.uid)?;
        let near = !owner.kind.namespaced || owner.namespace() == of.namespace();
        let same = owner.kind.kind == reference.kind && owner.kind.api_version() == reference.api_version;
        (near && same && owner.meta.name.as_ref() == Some(&reference.name)).then_some(owner)
    }

    pub(super) fn is_solid(&self, of: &Object, reference: &OwnerReference) -> bool {
        self.owner(of, reference).is_some_and(|owner| !owner.waits())
    }

    /// Whether an object has a reference of which nothing can be said.
    pub(super) fn is_undecidable(of: &Object) -> bool {
        let namespaced = |r: &OwnerReference| kinds().iter().any(|k| k.kind == r.kind && k.namespaced);
        of.references().iter().any(|r| r.api_version == UNKNOWN || (!of.kind.namespaced && namespaced(r)))
    }

    pub(super) fn blocks(&self, dependent: &Object, uid: &str) -> bool {
        let owner = &self.objects[uid];
        let near = !owner.kind.namespaced || owner.namespace() == dependent.namespace();
        near && dependent.references().iter().any(|r| r.uid == uid && r.block_owner_deletion == Some(true))
    }

    pub(super) fn check_deletion(&self, object: &Object) {
        assert!(!object.references().is_empty(), "nobody owned it: {:?}", object.meta);
        assert!(!Self::is_undecidable(object), "an owner can't be judged: {:?}", object.meta);
        for reference in object.references() {
            assert!(!self.is_solid(object, reference), "an owner keeps it: {:?}", object.meta);
        }
    }

    pub(super) fn check_patch(&self, old: &Object, new: &ObjectMeta) {
        let uid = old.meta.uid.as_deref().unwrap();
        let left = new.owner_references.as_deref().unwrap_or_default();
        for lost in old.references().iter().filter(|r| !left.iter().any(|l| l.uid == r.uid && l.name == r.name)) {
            let orphaned = self.objects.get(&lost.uid).is_some_and(|o| o.has(graph::ORPHAN));
            assert!(orphaned || !self.is_solid(old, lost), "it lost an owner: {lost:?}");
            // The owner for whose sake it was spared may have gone meanwhile: the reference that is left takes it along.
            assert!(orphaned || !left.is_empty(), "it lost its last reference: {lost:?}");
        }
        let keeps = |finalizer: &str| new.finalizers.iter().flatten().any(|f| f == finalizer);
        if old.has(graph::FOREGROUND) && !keeps(graph::FOREGROUND) {
            // Only of a circle that is deleted as a whole one goes first.
            let blocking = |d: &&Object| self.blocks(d, uid) && !d.waits();
            assert!(!self.objects.values().any(|d| blocking(&d)), "a dependent still blocks {uid}");
        }
        if old.has(graph::ORPHAN) && !keeps(graph::ORPHAN) {
            let refers = |d: &Object| d.references().iter().any(|r| r.uid == uid);
            assert!(!self.objects.values().any(refers), "a dependent of {uid} wasn't let go");
        }
    }
}

impl Model {
    pub(super) fn find(state: &State, place: &Place) -> Option<Object> {
        let fits = |o: &&Object| {
            o.kind.kind == place.kind
                && o.kind.api_version() == place.api_version
                && o.kind.plural() == place.plural
                && o.namespace() == place.namespace
                && o.meta.name.as_ref() == Some(&place.name)
        };
        state.objects.values().find(fits).cloned()
    }
}

impl Objects for Model {
    async fn kind(&self, api_version: &str, kind: &str) -> Result<Option<Served>> {
        let known = kinds().into_iter().find(|k| k.kind == kind && k.api_version() == api_version);
        Ok(known.map(|k| Served { plural: k.plural().into(), namespaced: k.namespaced }))
    }

    async fn get(&self, place: &Place) -> Result<Option<ObjectMeta>> {
        let mut state = self.0.lock();
        let found = Self::find(&state, place).map(|o| o.meta);
        // Between this answer and what follows from it, another client deletes an object.
        if let Some((uid, policy)) = state.interruptions.pop_front() {
            state.delete(&uid, &policy);
        }
        Ok(found)
    }

    async fn patch(&self, place: &Place, change: Value) -> Result<Option<String>> {
        let mut state = self.0.lock();
        let old = Self::find(&state, place).ok_or_else(|| refused(404))?;
        let change = &change["metadata"];
        if change["uid"] != json!(old.meta.uid) || change["resourceVersion"] != json!(old.meta.resource_version) {
            return Err(refused(409));
        }
        let mut new = old.meta.clone();
        if let Some(owners) = change.get("ownerReferences") {
            new.owner_references = serde_json::from_value(owners.clone()).unwrap();
        }
        if let Some(finalizers) = change.get("finalizers") {
            new.finalizers = serde_json::from_value(finalizers.clone()).unwrap();
        }
        state.check_patch(&old, &new);
        let uid = old.meta.uid.unwrap();
        state.objects.get_mut(&uid).unwrap().meta = new;
        state.show(&uid);
        Ok(state.objects.get(&uid).and_then(|o| o.meta.resource_version.clone()))
    }

    async fn delete(&self, place: &Place, uid: &str, version: Option<String>, policy: PropagationPolicy) -> Result {
        let mut state = self.0.lock();
        let object = Self::find(&state, place).ok_or_else(|| refused(404))?;
        if object.meta.uid.as_deref() != Some(uid) || object.meta.resource_version != version {
            return Err(refused(409));
        }
        if object.meta.deletion_timestamp.is_none() {
            state.check_deletion(&object);
        }
        state.delete(uid, &policy);
        Ok(())
    }

    fn record_invalid_namespace(&self, _: &Place, _: &str, _: &OwnerReference) {
        self.0.lock().foreign += 1;
    }
}

/// The collector at work on a model.
pub(super) struct Bench {
    pub(super) model: Model,
    pub(super) graph: Mutex<Graph>,
    pub(super) queue: VecDeque<String>,
}

impl Bench {
    pub(super) fn new(objects: Vec<Object>) -> Self {
        let bench = Bench { model: Model::default(), graph: Mutex::default(), queue: VecDeque::new() };
        let mut state = bench.model.0.lock();
        for object in objects {
            let uid = object.meta.uid.clone().unwrap();
            state.objects.insert(uid.clone(), object);
            state.show(&uid);
        }
        drop(state);
        let mut bench = bench;
        // All kinds are listed before the collector starts.
        while (0..3).any(|kind| bench.hear(kind)) {}
        bench
    }

    /// Tells of the next change of a kind; whether there was one.
    pub(super) fn hear(&mut self, kind: usize) -> bool {
        let event = self.model.0.lock().events.get_mut(kinds()[kind].plural()).and_then(VecDeque::pop_front);
        let Some((uid, node)) = event else { return false };
        let mut graph = self.graph.lock();
        let look_at = match node {
            Some(node) => graph.put(&uid, node),
            None => graph.remove(&uid),
        };
        self.queue.extend(look_at);
        true
    }

    /// Looks at one object; whether there was one.
    pub(super) fn work(&mut self) -> bool {
        let Some(uid) = self.queue.pop_front() else { return false };
        self.queue.retain(|other| *other != uid);
        let collector = Collector { objects: &self.model, graph: &self.graph, complete: true };
        let next = collector.collect(&uid).now_or_never().expect("the model answers at once").unwrap();
        self.queue.extend(next.look_at);
        self.queue.extend(next.again.filter(|again| *again == AGAIN).map(|_| uid));
        true
    }

    pub(super) fn delete(&self, uid: &str, policy: &PropagationPolicy) {
        self.model.0.lock().delete(uid, policy);
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            let heard = (0..3).any(|kind| self.hear(kind));
            if !self.work() && !heard {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.queue);
    }

    pub(super) fn left(&self) -> Vec<String> {
        self.model.0.lock().objects.keys().cloned().collect()
    }

    pub(super) fn owners_of(&self, uid: &str) -> Vec<String> {
        self.model.0.lock().objects[uid].references().iter().map(|r| r.uid.clone()).collect()
    }
}

/// An object whose uid is its name.
pub(super) fn object(kind: usize, namespace: usize, name: &str, owners: Vec<OwnerReference>) -> Object {
    let kind = kinds()[kind];
    let meta = ObjectMeta {
        name: Some(name.into()),
        uid: Some(name.into()),
        namespace: kind.namespaced.then(|| NAMESPACES[namespace].to_string()),
        owner_references: Some(owners),
        ..ObjectMeta::default()
    };
    Object { kind, meta }
}

pub(super) fn reference(kind: usize, name: &str, blocks: bool) -> OwnerReference {
    let kind = kinds()[kind];
    OwnerReference {
        api_version: kind.api_version(),
        kind: kind.kind.into(),
        name: name.into(),
        uid: name.into(),
        block_owner_deletion: Some(blocks),
        controller: None,
    }
}
