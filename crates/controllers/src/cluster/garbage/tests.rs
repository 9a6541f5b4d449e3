//! The collector against a model of the API, whose watches show changes late and each kind at its own pace.

mod model;

use proptest::prelude::*;

use super::*;
use model::*;

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
