use proptest::prelude::*;
use serde_json::json;

use super::*;

fn deployment() -> Typed {
    typed("io.k8s.api.apps.v1.Deployment")
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

#[test]
fn fields_of_a_configuration_are_its_leaves_and_its_items() {
    let object = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"spec": {"containers": [{"name": "c", "args": ["x"], "ports": [{"containerPort": 80}]}]}}}});
    let want = json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {},
        "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:args": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
    assert_eq!(deployment().fields(&object).to_v1(), want);
}

#[test]
fn changes_are_found_item_by_item() {
    let old = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let new = containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]));
    let Difference { changed, removed } = deployment().compare(&old, &new);
    let at = ".spec.template.spec.containers";
    assert_eq!(
        changed.paths(),
        ["[name=\"b\"].image", "[name=\"c\"]", "[name=\"c\"].image", "[name=\"c\"].name"].map(|p| format!("{at}{p}"))
    );
    assert_eq!(
        removed.paths(),
        ["[name=\"a\"]", "[name=\"a\"].image", "[name=\"a\"].name"].map(|p| format!("{at}{p}"))
    );
}

#[test]
fn lists_are_merged_by_key_and_keep_an_order() {
    let live =
        containers(json!([{"name": "injected"}, {"name": "a", "image": "1"}, {"name": "b", "env": [{"name": "X"}]}]));
    let applied = containers(json!([{"name": "b", "image": "2"}, {"name": "new"}, {"name": "a", "image": "3"}]));
    assert_eq!(
        deployment().merge(&live, &applied),
        containers(json!([{"name": "injected"}, {"name": "b", "env": [{"name": "X"}], "image": "2"},
                          {"name": "new"}, {"name": "a", "image": "3"}]))
    );
}

#[test]
fn what_is_applied_no_more_goes_unless_another_has_it() {
    let before = json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"replicas": 2, "paused": true}});
    let now = json!({"metadata": {"labels": {"a": "1"}}, "spec": {}});
    let others = deployment().fields(&json!({"spec": {"replicas": 2}}));
    let of = deployment();
    let mut object = json!({"metadata": {"labels": {"a": "1", "b": "1", "c": "1"}},
        "spec": {"replicas": 2, "paused": true, "minReadySeconds": 1}});
    of.prune(&mut object, &of.fields(&before), &of.fields(&now), &others);
    assert_eq!(
        object,
        json!({"metadata": {"labels": {"a": "1", "c": "1"}}, "spec": {"replicas": 2, "minReadySeconds": 1}})
    );
}

/// Objects with what matters: plain fields, maps, lists by key, atomic maps.
fn objects() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[ab]", "[12]", 0..3);
    let container = (any::<bool>(), prop::collection::btree_map("[PQ]", "[12]", 0..2)).prop_map(|(image, env)| {
        let env: Vec<Value> = env.into_iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
        let mut c = json!({"env": env});
        if image {
            c["image"] = "i".into();
        }
        c
    });
    let containers = prop::collection::btree_map("[xyz]", container, 0..3);
    (labels.clone(), prop::option::of(0..3i64), labels, containers).prop_map(
        |(labels, replicas, selector, containers)| {
            let list: Vec<Value> = containers
                .into_iter()
                .map(|(name, mut c)| {
                    c["name"] = name.into();
                    c
                })
                .collect();
            let mut object = json!({"metadata": {"labels": labels}, "spec": {"selector": {"matchLabels": selector},
            "template": {"spec": {"containers": list}}}});
            if let Some(n) = replicas {
                object["spec"]["replicas"] = n.into();
            }
            object
        },
    )
}

proptest! {
    #[test]
    fn merge_holds_all_that_was_applied(live in objects(), applied in objects()) {
        let of = deployment();
        let merged = of.merge(&live, &applied);
        // Applying the same again changes nothing.
        prop_assert_eq!(of.merge(&merged, &applied), merged.clone());
        // Every field of the configuration is in the result.
        let mut missing = of.fields(&applied);
        missing.subtract(&of.fields(&merged));
        let gone: Vec<String> = missing.paths().into_iter().filter(|p| !p.ends_with("labels") && !p.ends_with("containers") && !p.ends_with("env")).collect();
        prop_assert!(gone.is_empty(), "{:?}", gone);
    }

    #[test]
    fn comparing_an_object_with_itself_finds_nothing(object in objects()) {
        prop_assert_eq!(deployment().compare(&object, &object), Difference::default());
    }

    #[test]
    fn a_sole_manager_that_stops_applying_leaves_nothing_behind(first in objects(), second in objects()) {
        let of = deployment();
        let mut object = of.merge(&first, &second);
        of.prune(&mut object, &of.fields(&first), &of.fields(&second), &FieldSet::default());
        // What is left of the first is what the second has as well.
        let mut left = of.fields(&object);
        left.subtract(&of.fields(&second));
        let left: Vec<String> = left.paths().into_iter().filter(|p| !p.ends_with("labels") && !p.ends_with("containers") && !p.ends_with("env")).collect();
        prop_assert!(left.is_empty(), "{:?} of {}", left, object);
    }
}
