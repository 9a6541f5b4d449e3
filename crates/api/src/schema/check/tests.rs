use super::super::types;
use super::*;

fn check(mut pod: Value) -> (Findings, Value) {
    let findings = types().check("io.k8s.api.core.v1.Pod", &mut pod);
    (findings, pod)
}

#[test]
fn typos_are_named_and_dropped() {
    let (findings, pod) = check(json!({
        "metadata": {"name": "a", "creationTimestamp": null},
        "spec": {"containers": [{"name": "a", "imagge": "x", "ports": [{"containerPort": 80}]}], "extra": 1}
    }));
    assert_eq!(findings.unknown, ["spec.extra", "spec.containers[0].imagge"]);
    assert!(findings.mismatched.is_empty());
    assert_eq!(
        pod,
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}})
    );
    let many: Map<String, Value> = (0..1000).map(|i| (format!("x{i}"), json!(1))).collect();
    assert_eq!(check(json!(many)).0.unknown.len(), MAX_REPORTED_FIELDS);
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    for (pod, want) in [
        (json!({"spec": {"hostNetwork": "yes"}}), "string into Go struct field PodSpec.spec.hostNetwork of type bool"),
        (
            json!({"spec": {"containers": [{"env": [{"value": 1}]}]}}),
            "number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            json!({"spec": {"containers": {"name": "a"}}}),
            "object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"spec": {"priority": 3_000_000_000_i64}}),
            "number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            json!({"spec": {"activeDeadlineSeconds": 1.5}}),
            "number 1.5 into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64",
        ),
    ] {
        let (findings, _) = check(pod);
        assert_eq!(findings.mismatched, [format!("json: cannot unmarshal {want}")]);
    }
}

#[test]
fn null_is_the_zero_value_of_its_type() {
    let (findings, pod) = check(json!({
        "metadata": {"name": null, "labels": {"a": null}, "annotations": null, "finalizers": [null]},
        "spec": {"nodeSelector": {"disk": null}, "containers": [null, {"name": "a", "args": ["x", null], "env": null,
            "resources": {"limits": {"cpu": null}}}], "volumes": null, "hostNetwork": null},
        "status": null
    }));
    assert_eq!(findings, Findings::default());
    assert_eq!(
        pod,
        json!({"metadata": {"labels": {"a": ""}, "finalizers": [""]},
                "spec": {"nodeSelector": {"disk": ""}, "containers": [{}, {"name": "a", "args": ["x", ""],
                    "resources": {"limits": {"cpu": "0"}}}]}})
    );
    let mut secret = json!({"data": {"a": null, "b": "YQ=\n=\n"}});
    let findings = types().check("io.k8s.api.core.v1.Secret", &mut secret);
    assert_eq!((findings, secret), (Findings::default(), json!({"data": {"a": "", "b": "YQ=="}})));
}

#[test]
fn what_go_does_not_write_when_it_is_empty_is_dropped_and_what_a_pointer_says_is_kept() {
    let (_, pod) = check(json!({"metadata": {"name": "a", "namespace": "", "labels": {}},
            "spec": {"hostNetwork": false, "nodeName": "", "tolerations": [], "priority": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "", "command": [], "image": "", "resources": {}, "securityContext": {"privileged": false},
                    "ports": [{"containerPort": 0, "hostPort": 0}], "env": [{"name": "A", "value": ""}]}],
                "volumes": [{"name": "v", "hostPath": {"path": "/x", "type": ""}}]}}));
    assert_eq!(
        pod,
        json!({"metadata": {"name": "a"},
                "spec": {"priority": 0, "automountServiceAccountToken": false,
                    "containers": [{"name": "", "resources": {}, "securityContext": {"privileged": false},
                        "ports": [{"containerPort": 0}], "env": [{"name": "A"}]}],
                    "volumes": [{"name": "v", "hostPath": {"path": "/x", "type": ""}}]}})
    );
    let mut applied = json!({"metadata": {"namespace": ""}, "spec": {"nodeName": ""}});
    types().check_applied("io.k8s.api.core.v1.Pod", &mut applied);
    assert_eq!(applied, json!({"metadata": {"namespace": ""}, "spec": {"nodeName": ""}}));
}

#[test]
fn amounts_and_times_are_written_one_way() {
    let (findings, pod) = check(json!({"metadata": {"creationTimestamp": "2024-05-01T12:00:00.5+02:00"},
            "spec": {"containers": [{"name": "a",
                "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": "0.1"}},
                "livenessProbe": {"httpGet": {"port": "web"}}}], "overhead": {"cpu": "1000m"}}}));
    assert_eq!(findings, Findings::default());
    assert_eq!(
        pod,
        json!({"metadata": {"creationTimestamp": "2024-05-01T10:00:00Z"},
                "spec": {"containers": [{"name": "a",
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"port": "web"}}}], "overhead": {"cpu": "1"}}})
    );
    let mut lease = json!({"spec": {"renewTime": "2024-05-01T12:00:00.5Z"}});
    types().check("io.k8s.api.coordination.v1.Lease", &mut lease);
    assert_eq!(lease["spec"]["renewTime"], "2024-05-01T12:00:00.500000Z");
    for wrong in [json!({"spec": {"overhead": {"cpu": "much"}}}), json!({"metadata": {"creationTimestamp": "noon"}})] {
        assert_eq!(check(wrong).0.mismatched.len(), 1);
    }
}
