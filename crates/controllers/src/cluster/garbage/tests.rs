//! The collector against a model of the API, whose watches tell of changes late and each kind at its own pace.

use std::collections::{BTreeMap, HashSet, VecDeque};

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::collect::AGAIN;
use super::*;

const NAMESPACES: [&str; 2] = ["n0", "n1"];
/// A finalizer of somebody else, who takes it away when he is done.
const HOLD: &str = "example.com/hold";
/// A group that nobody serves.
const UNKNOWN: &str = "ghosts.example.com/v1";

fn kinds() -> [&'static Kind; 3] {
    let find = |group, plural| KINDS.iter().find(|k| k.group == group && k.plural() == plural).unwrap();
    [find("", "configmaps"), find("", "secrets"), find("rbac.authorization.k8s.io", "clusterroles")]
}

#[derive(Clone)]
struct Object {
    kind: &'static Kind,
    meta: ObjectMeta,
}

impl Object {
    fn has(&self, finalizer: &str) -> bool {
        self.meta.finalizers.iter().flatten().any(|f| f == finalizer)
    }

    fn waits(&self) -> bool {
        self.meta.deletion_timestamp.is_some() && self.has(graph::FOREGROUND)
    }

    fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or("")
    }

    fn references(&self) -> &[OwnerReference] {
        self.meta.owner_references.as_deref().unwrap_or_default()
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// What the watch of each kind will tell.
    events: BTreeMap<&'static str, VecDeque<(String, Option<Node>)>>,
    /// What users will delete while the collector is in the midst of something.
    interruptions: VecDeque<(String, PropagationPolicy)>,
    versions: u64,
    foreign: usize,
}

#[derive(Default)]
struct Model(Mutex<State>);

fn refused(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }))
}

impl State {
    fn show(&mut self, uid: &str) {
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

    fn delete(&mut self, uid: &str, policy: &PropagationPolicy) {
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
    fn release(&mut self, uid: &str) {
        let Some(object) = self.objects.get_mut(uid).filter(|o| o.has(HOLD)) else { return };
        object.meta.finalizers.get_or_insert_default().retain(|f| f != HOLD);
        self.show(uid);
    }

    /// The owner that a reference of `of` means, by upstream's rules for what a reference means.
    fn owner(&self, of: &Object, reference: &OwnerReference) -> Option<&Object> {
        let owner = self.objects.get(&reference.uid)?;
        let near = !owner.kind.namespaced || owner.namespace() == of.namespace();
        let same = owner.kind.kind == reference.kind && owner.kind.api_version() == reference.api_version;
        (near && same && owner.meta.name.as_ref() == Some(&reference.name)).then_some(owner)
    }

    fn is_solid(&self, of: &Object, reference: &OwnerReference) -> bool {
        self.owner(of, reference).is_some_and(|owner| !owner.waits())
    }

    /// Whether an object has a reference of which nothing can be said.
    fn is_undecidable(of: &Object) -> bool {
        let namespaced = |r: &OwnerReference| kinds().iter().any(|k| k.kind == r.kind && k.namespaced);
        of.references().iter().any(|r| r.api_version == UNKNOWN || (!of.kind.namespaced && namespaced(r)))
    }

    fn blocks(&self, dependent: &Object, uid: &str) -> bool {
        let owner = &self.objects[uid];
        let near = !owner.kind.namespaced || owner.namespace() == dependent.namespace();
        near && dependent.references().iter().any(|r| r.uid == uid && r.block_owner_deletion == Some(true))
    }

    fn check_deletion(&self, object: &Object) {
        assert!(!object.references().is_empty(), "nobody owned it: {:?}", object.meta);
        assert!(!Self::is_undecidable(object), "an owner can't be judged: {:?}", object.meta);
        for reference in object.references() {
            assert!(!self.is_solid(object, reference), "an owner keeps it: {:?}", object.meta);
        }
    }

    fn check_patch(&self, old: &Object, new: &ObjectMeta) {
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
    fn find(state: &State, place: &Place) -> Option<Object> {
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
        // Between this answer and what follows from it, somebody deletes something.
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

    fn tell_foreign(&self, _: &Place, _: &str, _: &OwnerReference) {
        self.0.lock().foreign += 1;
    }
}

/// The collector at work on a model.
struct Bench {
    model: Model,
    graph: Mutex<Graph>,
    queue: VecDeque<String>,
}

impl Bench {
    fn new(objects: Vec<Object>) -> Self {
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
    fn hear(&mut self, kind: usize) -> bool {
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
    fn work(&mut self) -> bool {
        let Some(uid) = self.queue.pop_front() else { return false };
        self.queue.retain(|other| *other != uid);
        let collector = Collector { objects: &self.model, graph: &self.graph, complete: true };
        let next = collector.collect(&uid).now_or_never().expect("the model answers at once").unwrap();
        self.queue.extend(next.look_at);
        self.queue.extend(next.again.filter(|again| *again == AGAIN).map(|_| uid));
        true
    }

    fn delete(&self, uid: &str, policy: &PropagationPolicy) {
        self.model.0.lock().delete(uid, policy);
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            let heard = (0..3).any(|kind| self.hear(kind));
            if !self.work() && !heard {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.queue);
    }

    fn left(&self) -> Vec<String> {
        self.model.0.lock().objects.keys().cloned().collect()
    }

    fn owners_of(&self, uid: &str) -> Vec<String> {
        self.model.0.lock().objects[uid].references().iter().map(|r| r.uid.clone()).collect()
    }
}

/// An object whose uid is its name.
fn object(kind: usize, namespace: usize, name: &str, owners: Vec<OwnerReference>) -> Object {
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

fn reference(kind: usize, name: &str, blocks: bool) -> OwnerReference {
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

#[test]
fn foreground_deletion_waits_for_those_that_block_it_and_spares_those_with_another_owner() {
    let mut held = object(1, 0, "held", vec![reference(0, "a", false)]);
    held.meta.finalizers = Some(vec![HOLD.into()]);
    let mut blocking = object(1, 0, "blocking", vec![reference(0, "c", true)]);
    blocking.meta.finalizers = Some(vec!["example.com/hold".into()]);
    let mut bench = Bench::new(vec![
        object(0, 0, "a", vec![]),
        object(0, 0, "b", vec![]),
        object(0, 0, "c", vec![]),
        object(1, 0, "shared", vec![reference(0, "a", true), reference(0, "b", true)]),
        object(1, 0, "own", vec![reference(0, "a", true)]),
        held,
        blocking,
    ]);
    bench.delete("a", &PropagationPolicy::Foreground);
    bench.delete("c", &PropagationPolicy::Foreground);
    bench.settle();
    assert_eq!(bench.left(), ["b", "blocking", "c", "held", "shared"]);
    assert_eq!(bench.owners_of("shared"), ["b"]);
}

#[test]
fn circles_of_owners_end() {
    for blocks in [true, false] {
        let owned = |name: &str, by: &str| object(0, 0, name, vec![reference(0, by, blocks)]);
        let mut bench = Bench::new(vec![owned("a", "c"), owned("b", "a"), owned("c", "b"), owned("itself", "itself")]);
        bench.settle();
        assert_eq!(bench.left().len(), 4);
        bench.delete("a", &PropagationPolicy::Foreground);
        bench.delete("itself", &PropagationPolicy::Foreground);
        bench.settle();
        assert_eq!(bench.left(), [""; 0], "blocking: {blocks}");
    }
}

#[test]
fn a_circle_of_which_all_are_deleted_ends() {
    let owned = |name: &str, by: &str| object(0, 0, name, vec![reference(0, by, true)]);
    let mut held = object(1, 0, "held", vec![reference(0, "a", true)]);
    held.meta.finalizers = Some(vec!["example.com/hold".into()]);
    let mut bench = Bench::new(vec![owned("a", "b"), owned("b", "a"), owned("x", "y"), owned("y", "x"), held]);
    for uid in ["a", "b", "x", "y"] {
        bench.delete(uid, &PropagationPolicy::Foreground);
    }
    bench.settle();
    // The one that waits for something else goes on waiting.
    assert_eq!(bench.left(), ["a", "held"]);
    bench.model.0.lock().release("held");
    bench.settle();
    assert_eq!(bench.left(), [""; 0]);
}

#[test]
fn what_cannot_be_judged_stays() {
    let ghost = OwnerReference { api_version: UNKNOWN.into(), kind: "Ghost".into(), ..reference(0, "g", true) };
    let mut bench = Bench::new(vec![
        object(0, 0, "a", vec![]),
        object(0, 0, "of-unknown", vec![ghost.clone()]),
        object(0, 0, "of-unknown-and-gone", vec![ghost, reference(0, "never", true)]),
        object(2, 0, "cluster-wide", vec![reference(0, "a", true)]),
        object(2, 0, "cluster-wide-of-gone", vec![reference(0, "never", true)]),
        object(0, 1, "elsewhere", vec![reference(0, "a", true)]),
        object(0, 0, "misnamed", vec![OwnerReference { name: "b".into(), ..reference(0, "a", true) }]),
    ]);
    bench.settle();
    // Those in another namespace and of another name have an owner that isn't there.
    assert_eq!(bench.left(), ["a", "cluster-wide", "cluster-wide-of-gone", "of-unknown", "of-unknown-and-gone"]);
    assert!(bench.model.0.lock().foreign >= 3);
    // And nobody waits for them.
    bench.delete("a", &PropagationPolicy::Foreground);
    bench.settle();
    assert!(!bench.left().contains(&"a".to_string()));
    assert!(bench.left().contains(&"cluster-wide".to_string()));
}

#[test]
fn orphans_lose_the_reference_and_stay() {
    let mut bench = Bench::new(vec![
        object(0, 0, "a", vec![]),
        object(1, 0, "b", vec![reference(0, "a", true)]),
        object(1, 0, "c", vec![reference(1, "b", true)]),
    ]);
    bench.delete("a", &PropagationPolicy::Orphan);
    bench.settle();
    assert_eq!(bench.left(), ["b", "c"]);
    assert!(bench.owners_of("b").is_empty());
    assert_eq!(bench.owners_of("c"), ["b"]);
}

#[test]
fn dependents_of_a_kind_that_is_no_longer_served_stay_unless_their_owner_was_seen_to_go() {
    let mut graph = Graph::default();
    let (owner, of) = (object(0, 0, "a", vec![]), object(1, 0, "b", vec![reference(0, "a", true)]));
    graph.put("a", Node::new(owner.kind, &owner.meta));
    graph.put("b", Node::new(of.kind, &of.meta));
    graph.forget(owner.kind);
    assert!(!graph.is_absent(&of.references()[0], NAMESPACES[0]));
    graph.put("a", Node::new(owner.kind, &owner.meta));
    assert_eq!(graph.remove("a"), ["b"]);
    assert!(graph.is_absent(&of.references()[0], NAMESPACES[0]));
    assert!(!graph.is_absent(&of.references()[0], NAMESPACES[1]));
}

/// Owners by number (of an object; beyond, of none; 99: of an unknown kind), whether they are waited for, and whether the name is right.
type Owners = Vec<(usize, bool, bool)>;

/// Of each object its kind, its namespace, its owners and whether somebody holds it.
fn objects() -> impl Strategy<Value = Vec<(usize, usize, Owners, bool)>> {
    let owner = (prop_oneof![8 => 0..9_usize, 1 => Just(99)], any::<bool>(), prop::bool::weighted(0.9));
    // Most are in one namespace, so that most references mean something.
    let namespace = prop_oneof![4 => Just(0_usize), 1 => Just(1)];
    let kind = prop_oneof![3 => Just(0_usize), 3 => Just(1), 1 => Just(2)];
    prop::collection::vec((kind, namespace, prop::collection::vec(owner, 0..4), prop::bool::weighted(0.2)), 1..9)
}

fn policy() -> impl Strategy<Value = PropagationPolicy> {
    prop_oneof![
        3 => Just(PropagationPolicy::Foreground),
        2 => Just(PropagationPolicy::Background),
        1 => Just(PropagationPolicy::Orphan)
    ]
}

fn build(objects: &[(usize, usize, Owners, bool)]) -> Vec<Object> {
    let name = |i: usize| format!("o{i}");
    let build = |(i, (kind, namespace, owners, held)): (usize, &(usize, usize, Owners, bool))| {
        let mut seen = HashSet::new();
        let owners = owners.iter().filter(|(of, ..)| seen.insert(*of)).map(|(of, blocks, right)| match of {
            99 => {
                OwnerReference { api_version: UNKNOWN.into(), kind: "Ghost".into(), ..reference(0, "ghost", *blocks) }
            }
            of => {
                let kind = objects.get(*of).map_or(0, |o| o.0);
                let named = if *right { name(*of) } else { "wrong".into() };
                OwnerReference { name: named, ..reference(kind, &name(*of), *blocks) }
            }
        });
        let mut object = object(*kind, *namespace, &name(i), owners.collect());
        object.meta.finalizers = held.then(|| vec![HOLD.into()]);
        object
    };
    objects.iter().enumerate().map(build).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// What the collector does is checked at every one of its writes, see [`State::check_deletion`] and [`State::check_patch`].
    #[test]
    fn nothing_goes_that_must_stay_and_nothing_stays_that_must_go(
        objects in objects(),
        deletions in prop::collection::vec((0..9_usize, policy(), any::<bool>()), 0..6),
        schedule in prop::collection::vec(0..6_usize, 0..80),
        released in prop::collection::vec(0..9_usize, 0..6),
    ) {
        let mut bench = Bench::new(build(&objects));
        let (mut deletions, mut released) = (deletions.into_iter(), released.into_iter());
        for step in schedule {
            match step {
                kind @ 0..=2 => {
                    bench.hear(kind);
                }
                3 => {
                    bench.work();
                }
                4 => {
                    let Some(of) = released.next() else { continue };
                    bench.model.0.lock().release(&format!("o{of}"));
                }
                _ => {
                    let Some((of, policy, amid)) = deletions.next() else { continue };
                    if amid {
                        bench.model.0.lock().interruptions.push_back((format!("o{of}"), policy));
                    } else {
                        bench.delete(&format!("o{of}"), &policy);
                    }
                }
            }
        }
        // It comes to rest while some are held, too; then everybody lets go.
        bench.settle();
        (0..objects.len()).for_each(|i| bench.model.0.lock().release(&format!("o{i}")));
        bench.settle();
        {
            let state = bench.model.0.lock();
            let undecidable = state.objects.values().any(State::is_undecidable);
            for (uid, object) in &state.objects {
                if object.meta.deletion_timestamp.is_some() {
                    let held = state.objects.values().any(|d| state.blocks(d, uid));
                    prop_assert!(undecidable && object.waits() && held, "{} hangs: {:?}", uid, object.meta);
                } else if !State::is_undecidable(object) && !object.references().is_empty() {
                    let solid = object.references().iter().all(|r| state.is_solid(object, r));
                    prop_assert!(solid, "{} has owners that are gone or go: {:?}", uid, object.meta);
                }
            }
        }
        // Namespaces are emptied by deleting all that is in them: nothing in them may hang on anything.
        let in_namespaces: Vec<String> = {
            let state = bench.model.0.lock();
            state.objects.iter().filter(|(_, o)| o.kind.namespaced).map(|(uid, _)| uid.clone()).collect()
        };
        in_namespaces.iter().for_each(|uid| bench.delete(uid, &PropagationPolicy::Background));
        bench.settle();
        let left = bench.left();
        prop_assert!(in_namespaces.iter().all(|uid| !left.contains(uid)), "{:?} of {:?}", left, in_namespaces);
    }
}
