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
    inherit(&mut kept, &live, &writer("k"));
    assert_eq!(kept["metadata"]["managedFields"], live["metadata"]["managedFields"]);
    let mut reset = json!({"metadata": {"name": "d", "managedFields": [{}]}});
    inherit(&mut reset, &live, &writer("k"));
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

#[test]
fn fields_of_an_object_without_managers_were_there_before_the_first_apply() {
    let live = json!({"metadata": {"name": "d", "uid": "u"}, "spec": {"replicas": 1, "paused": true}});
    // Updates don't make anybody the manager of an object that has forgotten its own.
    let mut new = live.clone();
    new["spec"]["replicas"] = 2.into();
    track(&of(), kind(), Target::Main, &writer("k"), &live, &mut new);
    assert!(new["metadata"].get("managedFields").is_none());
    let status = applied(&live, "a", json!({"replicas": 3}), false).unwrap_err();
    assert!(status.message.contains(r#"conflict with "before-first-apply" using apps/v1"#), "{}", status.message);
    let same = applied(&live, "a", json!({"replicas": 1}), false).unwrap();
    assert_eq!(owners(&same), ["a true .spec.replicas", "before-first-apply false .spec.paused .spec.replicas"]);
}

#[test]
fn what_kubectl_applied_before_is_no_conflict_for_it_and_stays_in_its_annotation() {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let last = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1, "paused": true}});
    let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "annotations": {ANNOTATION: last.to_string()}},
        "spec": {"replicas": 1, "paused": true, "minReadySeconds": 4}});
    track(&of(), kind(), Target::Main, &writer("kubectl-client-side-apply"), &json!({}), &mut live);
    // Another manager has the conflict, and leaves the annotation alone.
    assert!(applied(&live, "else", json!({"replicas": 2}), false).is_err());
    let other = applied(&live, "else", json!({"replicas": 2}), true).unwrap();
    assert_eq!(other["metadata"]["annotations"][ANNOTATION], last.to_string());
    let new = applied(&live, "kubectl", json!({"replicas": 2}), false).unwrap();
    assert_eq!(new["spec"]["replicas"], 2);
    let kept: Value = serde_json::from_str(new["metadata"]["annotations"][ANNOTATION].as_str().unwrap()).unwrap();
    assert_eq!(kept["spec"], json!({"replicas": 2}));
    // What the annotation doesn't say, or says otherwise than the object has it, is a conflict still.
    let status = applied(&live, "kubectl", json!({"minReadySeconds": 5, "replicas": 2}), false).unwrap_err();
    assert!(
        status.message.ends_with(".spec.minReadySeconds") && status.message.contains("1 conflict"),
        "{}",
        status.message
    );
    live["spec"]["replicas"] = 7.into();
    assert!(applied(&live, "kubectl", json!({"replicas": 2}), false).is_err());
}

#[test]
fn of_too_many_managers_the_oldest_of_a_version_become_one() {
    let record = |i: usize, version: &str| Record {
        manager: format!("m{i}"),
        applies: false,
        api_version: version.into(),
        subresource: String::new(),
        time: format!("2026-01-01T00:00:{i:02}Z"),
        fields: FieldSet::from_v1(&json!({ format!("f:{i}"): {} })).unwrap(),
    };
    let mut records: Vec<Record> =
        (0..12).map(|i| record(i, if i == 1 { "apps/v1beta1" } else { "apps/v1" })).collect();
    merge_oldest(&mut records);
    let names: Vec<&str> = records.iter().map(|r| r.manager.as_str()).collect();
    assert_eq!(names[..3], [ANCIENT, "m1", "m4"]);
    assert_eq!((records.len(), records[0].fields.paths().join(" ")), (10, ".0 .2 .3".to_string()));
}

#[test]
fn what_every_object_has_belongs_to_nobody() {
    let (kind, of) = (api::kinds::JOBS, api::managed::typed(&api::kinds::JOBS.schema()));
    let template = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "b", "resources": {}}]}});
    let mut made =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}});
    track(&of, kind, Target::Main, &writer("kubectl-client-side-apply"), &empty(kind), &mut made);
    let steps =
        ["", ".image", ".name", ".resources"].map(|step| format!(".spec.template.spec.containers[name=\"a\"]{step}"));
    assert_eq!(owners(&made), [format!("kubectl-client-side-apply false {}", steps.join(" "))]);
    // Else the labels that the server sets would go as soon as who made it applies it without metadata.
    made["spec"]["template"]["metadata"]["labels"] = json!({"job-name": "j"});
    made["metadata"]["managedFields"][0]["manager"] = "kubectl".into();
    made["metadata"]["managedFields"][0]["operation"] = "Apply".into();
    let config = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    let applied = apply(&of, kind, Target::Main, &writer("kubectl"), &made, &config, false).unwrap();
    assert_eq!(applied["spec"]["template"]["metadata"]["labels"], json!({"job-name": "j"}));
}
