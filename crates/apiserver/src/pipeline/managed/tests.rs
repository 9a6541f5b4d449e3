use super::*;

fn kind() -> &'static Kind {
    api::kinds::DEPLOYMENTS
}

fn of() -> Typed {
    api::managed::typed(&kind().schema())
}

fn writer(name: &str) -> FieldManager {
    FieldManager { manager: name.into(), subresource: String::new() }
}

fn applied(live: &Value, by: &str, spec: Value, force: bool) -> Result<Value, Status> {
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    apply(&of(), kind(), Target::Main, &writer(by), live, &config, force)
}

fn owners(object: &Value) -> Vec<String> {
    let records = read(object).unwrap();
    records.iter().map(|r| format!("{} {:?} {}", r.manager, r.applies, r.fields.paths().join(" "))).collect()
}

#[test]
fn a_manager_owns_what_it_applies_and_loses_what_it_leaves_out() {
    let first = applied(&json!({}), "a", json!({"replicas": 1, "paused": true}), false).unwrap();
    assert_eq!(owners(&first), ["a true .spec.paused .spec.replicas"]);
    let second = applied(&first, "a", json!({"replicas": 1}), false).unwrap();
    assert_eq!(second["spec"], json!({"replicas": 1}));
    assert_eq!(owners(&second), ["a true .spec.replicas"]);
}

#[test]
fn another_value_for_anothers_field_is_a_conflict_that_names_it() {
    let live = applied(&json!({}), "a", json!({"replicas": 1}), false).unwrap();
    let status = applied(&live, "b", json!({"replicas": 2}), false).unwrap_err();
    assert_eq!(status.message, r#"Apply failed with 1 conflict: conflict with "a": .spec.replicas"#);
    assert_eq!(status.code, 409);
    // The same value is shared, force takes it.
    let shared = applied(&live, "b", json!({"replicas": 1}), false).unwrap();
    assert_eq!(owners(&shared), ["a true .spec.replicas", "b true .spec.replicas"]);
    let forced = applied(&live, "b", json!({"replicas": 2}), true).unwrap();
    assert_eq!(owners(&forced), ["b true .spec.replicas"]);
    // A shared field stays when one of its managers leaves it out.
    let left = applied(&shared, "a", json!({}), false).unwrap();
    assert_eq!(left["spec"]["replicas"], 1);
}

#[test]
fn updates_take_fields_over_and_their_removal_is_noticed() {
    let live = applied(&json!({}), "a", json!({"replicas": 1, "paused": true}), false).unwrap();
    let mut new = live.clone();
    new["spec"] = json!({"replicas": 3});
    track(&of(), kind(), Target::Main, &writer("kubectl"), &live, &mut new);
    assert_eq!(owners(&new), ["kubectl false .spec.replicas"]);
    let status = applied(&new, "a", json!({"replicas": 1}), false).unwrap_err();
    assert!(status.message.starts_with(r#"Apply failed with 1 conflict: conflict with "kubectl" using apps/v1 at 2"#));
}

#[test]
fn identity_and_status_belong_to_nobody() {
    let mut new = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 1},
        "metadata": {"name": "d", "uid": "u", "labels": {"x": "y"}, "creationTimestamp": "2026-01-01T00:00:00Z"}});
    track(&of(), kind(), Target::Main, &writer("k"), &json!({}), &mut new);
    assert_eq!(owners(&new), ["k false .metadata.labels .metadata.labels.x"]);
}

#[test]
fn managers_can_be_forgotten_and_many_are_merged() {
    let live = applied(&json!({}), "a", json!({"replicas": 1}), false).unwrap();
    let mut kept = json!({"metadata": {"name": "d"}});
    inherit(&mut kept, &live);
    assert_eq!(kept["metadata"]["managedFields"], live["metadata"]["managedFields"]);
    let mut reset = json!({"metadata": {"name": "d", "managedFields": [{}]}});
    inherit(&mut reset, &live);
    assert!(reset["metadata"].get("managedFields").is_none());
    let mut object = live;
    for i in 0..15 {
        let mut new = object.clone();
        new["metadata"]["labels"][format!("l{i}")] = "x".into();
        track(&of(), kind(), Target::Main, &writer(&format!("m{i}")), &object, &mut new);
        object = new;
    }
    let managers: Vec<String> = read(&object).unwrap().into_iter().map(|r| r.manager).collect();
    assert_eq!(managers.len(), 11, "{managers:?}");
    assert!(managers.contains(&"ancient-changes".to_string()));
}
