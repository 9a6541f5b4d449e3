use serde_json::json;

use super::*;

fn texts(standard: Standard, pod: &Value) -> Vec<String> {
    violations(standard, &pod["metadata"], &pod["spec"]).iter().map(ToString::to_string).collect()
}

/// A pod that keeps the restricted level, with one container.
fn good() -> Value {
    json!({"metadata": {}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "image": "i", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

/// `good` with the parts of another pod merged into it, and its one container.
fn with(mut part: Value) -> Value {
    let mut pod = good();
    if let Some(container) = part.as_object_mut().and_then(|part| part.remove("container")) {
        merge(&mut pod["spec"]["containers"][0], container);
    }
    merge(&mut pod, part);
    pod
}

fn merge(into: &mut Value, part: Value) {
    match part {
        Value::Object(map) if into.is_object() => {
            for (key, value) in map {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

#[test]
fn each_check_of_the_baseline_refuses_in_upstreams_words() {
    let ephemeral =
        json!([{"name": "debug", "image": "i", "securityContext": {"privileged": true, "procMount": "Unmasked"}}]);
    for (part, want) in [
        (
            json!({"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"container": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
        ),
        (
            json!({"container": {"securityContext": {"capabilities": {"add": ["NET_RAW", "CHOWN", "ALL"]}}}}),
            "non-default capabilities (container \"a\" must not include \"ALL\", \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (json!({"spec": {"hostNetwork": true, "hostIPC": true}}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/x"}}]}}),
            "hostPath volumes (volumes \"v\", \"w\")",
        ),
        (
            json!({"container": {"ports": [{"containerPort": 80, "hostPort": 80}, {"hostPort": 0}]}}),
            "hostPort (container \"a\" uses hostPort 80)",
        ),
        (
            json!({"container": {"livenessProbe": {"httpGet": {"host": "127.0.0.1"}},
                "lifecycle": {"preStop": {"tcpSocket": {"host": "169.254.169.254"}}}}}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"127.0.0.1\", \"169.254.169.254\")",
        ),
        (
            json!({"container": {"securityContext": {"privileged": true}}}),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"container": {"securityContext": {"procMount": "Unmasked"}}}),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"spec": {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}},
                "container": {"securityContext": {"seLinuxOptions": {"user": "u", "role": "r"}}}}),
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may not be set)",
        ),
        (
            json!({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"spec": {"securityContext": {"windowsOptions": {"hostProcess": true}}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        let pod = with(part);
        assert_eq!(texts(Standard::latest(Level::Baseline), &pod), [want], "{pod}");
        assert!(!texts(Standard::latest(Level::Restricted), &pod).is_empty(), "{pod}");
        assert!(texts(Standard::PRIVILEGED, &pod).is_empty());
    }
    let pod = with(json!({"spec": {"ephemeralContainers": ephemeral}}));
    assert_eq!(
        texts(Standard::latest(Level::Baseline), &pod),
        [
            "privileged (container \"debug\" must not set securityContext.privileged=true)",
            "procMount (container \"debug\" must not set securityContext.procMount to \"Unmasked\")",
        ]
    );
    for part in [
        json!({"container": {"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}}}),
        json!({"container": {"securityContext": {"seLinuxOptions": {"type": "container_engine_t", "level": "s0"}}}}),
        json!({"spec": {"hostUsers": false}, "container": {"securityContext": {"procMount": "Unmasked"}}}),
        json!({"container": {"livenessProbe": {"httpGet": {"host": ""}}}}),
    ] {
        assert_eq!(texts(Standard::latest(Level::Baseline), &with(part.clone())), Vec::<String>::new(), "{part}");
    }
}

#[test]
fn each_check_of_the_restricted_level_refuses_in_upstreams_words() {
    let bare = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    assert_eq!(
        texts(Standard::latest(Level::Restricted), &bare),
        [
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
            "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
            "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
            "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ]
    );
    for (part, want) in [
        (json!({}), vec![]),
        (
            json!({"container": {"securityContext": {"capabilities": {"add": ["CHOWN", "NET_BIND_SERVICE"]}}}}),
            vec![
                "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
            ],
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "nfs": {}}, {"name": "w", "hostPath": {}}, {"name": "x", "image": {}}]}}),
            vec!["restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")"],
        ),
        (
            json!({"container": {"securityContext": {"runAsNonRoot": false, "runAsUser": 0}}}),
            vec![
                "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
                "runAsUser=0 (container \"a\" must not set runAsUser=0)",
            ],
        ),
        (
            json!({"spec": {"hostUsers": false, "securityContext": {"runAsNonRoot": false}},
                "container": {"securityContext": {"runAsUser": 0}}}),
            vec![],
        ),
        (
            json!({"container": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}),
            vec!["seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")"],
        ),
        (
            json!({"spec": {"hostUsers": false}, "container": {"securityContext": {"procMount": "Unmasked"}}}),
            vec!["procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")"],
        ),
    ] {
        assert_eq!(texts(Standard::latest(Level::Restricted), &with(part.clone())), want, "{part}");
    }
}

#[test]
fn a_standard_is_that_of_its_version() {
    let at = |minor: u32, level| Standard { level, minor: Some(minor) };
    let probe = with(json!({"container": {"livenessProbe": {"httpGet": {"host": "x"}}}}));
    assert!(texts(at(33, Level::Baseline), &probe).is_empty());
    assert_eq!(texts(at(34, Level::Baseline), &probe).len(), 1);
    let sysctl = with(json!({"spec": {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}}));
    assert_eq!(texts(at(31, Level::Baseline), &sysctl), ["forbidden sysctls (net.ipv4.tcp_rmem)"]);
    assert!(texts(at(32, Level::Baseline), &sysctl).is_empty());
    let bare = json!({"spec": {"containers": [{"name": "a"}]}});
    assert_eq!(texts(at(18, Level::Restricted), &bare).len(), 2, "no capabilities and no seccomp yet");
}

#[test]
fn labels_are_read_as_upstream_reads_them() {
    for (labels, want, wrong) in [
        (json!({}), "privileged:latest privileged:latest privileged:latest", 0),
        (json!({"enforce": "restricted"}), "restricted:latest privileged:latest restricted:latest", 0),
        (
            json!({"enforce": "baseline", "enforce-version": "v1.24", "warn": "privileged", "audit": "baseline"}),
            "baseline:v1.24 baseline:latest privileged:latest",
            0,
        ),
        (
            json!({"enforce": "Baseline", "warn": "x", "audit": "y"}),
            "restricted:latest privileged:latest privileged:latest",
            3,
        ),
        (
            json!({"enforce": "baseline", "enforce-version": "v1.07"}),
            "baseline:latest privileged:latest baseline:latest",
            1,
        ),
    ] {
        let (policy, causes) = Policy::read(|key| labels[key.strip_prefix(PREFIX)?].as_str());
        let read = format!("{} {} {}", policy.enforce, policy.audit, policy.warn);
        assert_eq!((read.as_str(), causes.len()), (want, wrong), "{labels}: {causes:?}");
    }
}

#[test]
fn an_update_counts_if_it_brings_an_image_or_a_container() {
    let old = good();
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(!is_significant(&labelled, &old));
    let mut image = old.clone();
    image["spec"]["containers"][0]["image"] = "other".into();
    assert!(is_significant(&image, &old));
    assert!(is_significant(&with(json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}})), &old));
}
