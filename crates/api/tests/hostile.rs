//! Whatever a client sends: the readers say no, they don't panic.

use api::merge::BuiltinStrategy;
use api::{custom, decode, managed, protobuf, schema};
use apimachinery::cron::Schedule;
use apimachinery::{FieldSet, LabelSelector, Quantity, patch};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape, with names that mean something more often than not.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z$./:{}\"-]{0,8}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("containers"),
        Just("name"),
        Just("ports"),
        Just("$patch"),
        Just("template"),
        Just("$setElementOrder/containers"),
        Just("$retainKeys"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("f:spec"),
        Just("k:{\"name\":\"a\"}"),
        Just("managedFields"),
        Just("finalizers"),
        Just("type"),
        Just("properties"),
        Just("items"),
        Just("matchLabels"),
        Just("matchExpressions"),
        Just("labels"),
        Just("versions"),
        Just("x"),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5).prop_map(|map| map
                .into_iter()
                .map(|(k, v)| (k.to_string(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::json(&bytes);
        let _ = protobuf::decode(&bytes);
        let mut framed = b"k8s\0".to_vec();
        framed.extend_from_slice(&bytes);
        let _ = protobuf::decode(&framed);
    }

    #[test]
    fn texts_are_read_or_refused(text in "\\PC{0,40}", likely in "[a-z0-9!=,() @*/.\\[\\]-]{0,40}") {
        for text in [&text, &likely] {
            let _ = text.parse::<Quantity>();
            let _ = LabelSelector::parse(text);
            let _ = Schedule::read(text, None);
            let _ = Schedule::read("* * * * *", Some(text));
        }
    }

    #[test]
    fn objects_are_checked_compared_and_merged(a in anything(), b in anything()) {
        let pod = api::kinds::PODS;
        let mut checked = a.clone();
        let _ = schema::types().check(&pod.schema(), &mut checked);
        let of = managed::typed(&pod.schema());
        let merged = of.merge(&a, &b);
        let difference = of.compare(&a, &merged);
        let mut pruned = merged.clone();
        of.prune(&mut pruned, &of.fields(&a), &of.fields(&b), &difference.removed);
        let mut patched = a.clone();
        let _ = patch::strategic_merge(&mut patched, &b, &BuiltinStrategy::of(pod));
        let _ = patch::json_patch(&mut patched, &b);
        patch::merge_patch(&mut patched, &b);
        let _ = FieldSet::from_v1(&a);
        let _ = LabelSelector::from_json(&a);
    }

    #[test]
    fn objects_of_every_kind_are_defaulted_and_checked(object in anything(), old in anything(), pick in any::<prop::sample::Index>()) {
        let all: Vec<&api::Kind> = api::KINDS.iter().chain(api::OLDER).collect();
        let kind = *pick.get(&all);
        let mut object = object;
        if !schema::types().check(&kind.schema(), &mut object.clone()).mismatched.is_empty() || !object.is_object() {
            // What isn't of the kind's type never gets so far; what has a spec of any shape is the harder test.
            // (The stored one, `old`, is of any shape too.)
            object = json!({"metadata": {"name": "x"}, "spec": object});
        }
        kind.apply_defaults(&mut object);
        let _ = kind.check(&object, None);
        let _ = kind.check(&object, Some(&old));
        if let Some(kept) = kind.kept_as() {
            kind.convert(&mut object, &kept.api_version());
            kind.convert(&mut object, &kind.api_version());
        }
    }

    #[test]
    fn definitions_are_checked_and_used(schema in anything(), object in anything()) {
        let mut definition = json!({"metadata": {"name": "xs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "xs", "kind": "X"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}}]}});
        custom::default(&mut definition);
        let mut causes = Vec::new();
        custom::check(&definition, None, &mut causes);
        custom::establish(&mut definition, &[]);
        // What is in force has passed the check.
        if causes.is_empty() && let Some(read) = custom::Definition::read(&definition) {
            let mut object = object;
            let _ = read.storage().prune(&mut object);
            read.storage().apply_defaults(&mut object);
            let _ = read.storage().check(&object, None);
            let _ = read.storage().table(&[object], |_| Value::Null, json!({}));
        }
    }

    #[test]
    fn definitions_of_any_shape_are_refused_or_read(definition in anything()) {
        let mut definition = definition;
        if definition.is_object() {
            custom::default(&mut definition);
            let mut causes = Vec::new();
            custom::check(&definition, None, &mut causes);
        }
    }
}
