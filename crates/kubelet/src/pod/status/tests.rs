use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::containers::go_duration;
use super::phase::phase;
use super::*;
use crate::state::{ContainerRecord, ContainerState, PodCheckpoint, Terminated};

fn pod(policy: &str, init: usize) -> Pod {
    let inits: Vec<Value> = (0..init).map(|i| json!({"name": format!("i{i}")})).collect();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "initContainers": inits,
                     "containers": [{"name": "a"}, {"name": "b"}]}});
    serde_json::from_value(pod).unwrap()
}

/// `r` running, `w` waiting, a number for an exit code.
fn saved(states: &[(&str, &str)]) -> PodCheckpoint {
    let mut saved = PodCheckpoint::default();
    for (name, state) in states {
        let phase = match *state {
            "w" => ContainerState::Waiting,
            "r" => ContainerState::Running { started_at: "2026-01-01T00:00:00Z".into() },
            code => ContainerState::Terminated(Terminated { code: code.parse().unwrap(), ..Terminated::default() }),
        };
        saved.containers.insert((*name).into(), ContainerRecord { phase, ..ContainerRecord::default() });
    }
    saved
}

#[test]
fn phase_follows_containers_and_policy() {
    for (policy, init, states, want) in [
        ("Always", 0, &[][..], "Pending"),
        ("Always", 0, &[("a", "r"), ("b", "w")], "Pending"),
        ("Always", 0, &[("a", "r"), ("b", "r")], "Running"),
        ("Always", 0, &[("a", "1"), ("b", "0")], "Running"),
        ("Never", 0, &[("a", "r"), ("b", "1")], "Running"),
        ("Never", 0, &[("a", "0"), ("b", "1")], "Failed"),
        ("Never", 0, &[("a", "0"), ("b", "0")], "Succeeded"),
        ("OnFailure", 0, &[("a", "0"), ("b", "1")], "Running"),
        ("OnFailure", 0, &[("a", "0"), ("b", "0")], "Succeeded"),
        ("Always", 1, &[("i0", "r")], "Pending"),
        ("Never", 1, &[("i0", "1")], "Failed"),
        ("OnFailure", 1, &[("i0", "1")], "Pending"),
        ("Always", 1, &[("i0", "0"), ("a", "r"), ("b", "r")], "Running"),
    ] {
        assert_eq!(phase(&pod(policy, init), &saved(states)), want, "{policy} {states:?}");
    }
}

fn computed(pod: &Pod, saved: &PodCheckpoint) -> Value {
    compute(pod, saved, &crate::config::tests::config(), "timonel")
}

fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let all = status["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap_or("");
    (text("status"), text("reason"), text("message"))
}

#[test]
fn init_containers_that_fail_are_named() {
    let incomplete = "containers with incomplete status: [i0 i1]";
    for (policy, states, phase) in
        [("Always", &[("i0", "1")][..], "Pending"), ("Never", &[("i0", "1")], "Failed"), ("Never", &[], "Pending")]
    {
        let status = computed(&pod(policy, 2), &saved(states));
        assert_eq!(status["phase"], phase, "{policy}");
        assert_eq!(condition(&status, "Initialized"), ("False", "ContainersNotInitialized", incomplete), "{policy}");
        assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing", "{policy}");
    }
    let status = computed(&pod("Never", 2), &saved(&[("i0", "0"), ("i1", "1")]));
    assert_eq!(condition(&status, "Initialized").2, "containers with incomplete status: [i1]");
    assert_eq!(condition(&status, "Ready"), ("False", "PodFailed", ""));
    let status = computed(&pod("Never", 2), &saved(&[("i0", "0"), ("i1", "0"), ("a", "0"), ("b", "0")]));
    assert_eq!(condition(&status, "Initialized"), ("True", "PodCompleted", ""));
    assert_eq!(condition(&status, "ContainersReady"), ("False", "PodCompleted", ""));
}

#[test]
fn pods_that_are_deleted_are_final() {
    for (policy, init, states, want) in [
        // Nothing ever ran.
        ("Always", 0, &[][..], "Failed"),
        ("Always", 1, &[("i0", "1")], "Failed"),
        ("Always", 0, &[("a", "0"), ("b", "0")], "Succeeded"),
        ("Always", 0, &[("a", "0"), ("b", "143")], "Failed"),
        ("OnFailure", 0, &[("a", "0")], "Failed"),
    ] {
        let saved = PodCheckpoint { ended: true, ..saved(states) };
        let status = computed(&pod(policy, init), &saved);
        assert_eq!(status["phase"], want, "{policy} {states:?}");
    }
    let told = |init: usize, states: &[(&str, &str)]| {
        let status = computed(&pod("Always", init), &PodCheckpoint { ended: true, ..saved(states) });
        let state = &status["containerStatuses"][1]["state"];
        state["terminated"]["reason"].as_str().or(state["waiting"]["reason"].as_str()).unwrap_or("").to_string()
    };
    assert_eq!(told(0, &[]), "ContainerStatusUnknown");
    assert_eq!(told(1, &[("i0", "1")]), "PodInitializing");
    assert_eq!(told(1, &[("i0", "0"), ("a", "0")]), "ContainerStatusUnknown");
}

#[test]
fn what_is_over_and_not_known_here_is_left_alone() {
    let of = |phase: &str| Pod { status: serde_json::from_value(json!({"phase": phase})).unwrap(), ..pod("Never", 0) };
    for (phase, want) in [("Succeeded", true), ("Failed", true), ("Running", false), ("Pending", false)] {
        assert_eq!(was_over(&of(phase), &PodCheckpoint::default()), want, "{phase}");
    }
    // Its own verdict is told until the API knows it.
    assert!(!was_over(&of("Failed"), &saved(&[("a", "1"), ("b", "1")])));
    assert!(!was_over(&of("Failed"), &PodCheckpoint { evicted: Some("no room".into()), ..PodCheckpoint::default() }));
}

#[test]
fn nothing_is_over_while_it_runs() {
    let saved = PodCheckpoint { evicted: Some("no room".into()), ..saved(&[("a", "r"), ("b", "r")]) };
    let status = computed(&pod("Always", 0), &saved);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Running"), &Value::Null));
    assert!(is_over(&pod("Always", 0), &saved));
    let saved = PodCheckpoint { evicted: Some("no room".into()), ..self::saved(&[("a", "137"), ("b", "137")]) };
    let status = computed(&pod("Always", 0), &saved);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
    assert_eq!(condition(&status, "DisruptionTarget"), ("True", "TerminationByKubelet", "no room"));
    let status = computed(&pod("Always", 0), &PodCheckpoint { preempted: true, ..saved });
    assert_eq!(status["reason"], "Preempting");
    let why = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(condition(&status, "DisruptionTarget"), ("True", "TerminationByKubelet", why));
}

#[test]
fn sidecars_and_gates_count_for_readiness() {
    let mut pod = pod("Always", 1);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers.as_mut().unwrap()[0].restart_policy = Some("Always".into());
    let mut saved = saved(&[("i0", "r"), ("a", "r"), ("b", "r")]);
    saved.containers.values_mut().for_each(|run| (run.ready, run.started) = (true, true));
    assert_eq!(condition(&computed(&pod, &saved), "Ready"), ("True", "", ""));
    saved.containers.get_mut("i0").unwrap().ready = false;
    let want = ("False", "ContainersNotReady", "containers with unready status: [i0]");
    assert_eq!(condition(&computed(&pod, &saved), "Ready"), want);
    saved.containers.get_mut("i0").unwrap().ready = true;
    pod.spec.as_mut().unwrap().readiness_gates = serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap();
    let status = computed(&pod, &saved);
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    let want = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    assert_eq!(condition(&status, "Ready"), ("False", "ReadinessGatesNotReady", want));
    // While a sidecar is started again, the pod stays initialized.
    saved.containers.get_mut("i0").unwrap().phase =
        ContainerState::Terminated(Terminated { code: 1, ..Terminated::default() });
    assert_eq!(condition(&computed(&pod, &saved), "Initialized"), ("True", "", ""));
}

#[test]
fn how_a_container_has_its_volumes_is_told() {
    let mut pod = pod("Always", 0);
    let mounts = json!([{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/b", "readOnly": true},
        {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"}]);
    pod.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
    // Also before the container runs.
    let told = computed(&pod, &PodCheckpoint::default())["containerStatuses"].clone();
    let want = json!([{"name": "a", "mountPath": "/a"},
        {"name": "b", "mountPath": "/b", "readOnly": true, "recursiveReadOnly": "Disabled"},
        {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "Enabled"}]);
    assert_eq!(told[0]["volumeMounts"], want);
    assert!(told[1]["volumeMounts"].is_null(), "{told}");
}

#[test]
fn a_container_that_fails_again_and_again_waits_in_upstreams_words() {
    let mut saved = saved(&[("a", "1"), ("b", "r")]);
    saved.containers.get_mut("a").unwrap().failures = 4;
    let status = computed(&pod("Always", 0), &saved);
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 4s restarting failed container=a pod=p_()");
    assert_eq!([5, 160, 3600].map(go_duration), ["5s", "2m40s", "1h0m0s"]);
}

/// What is ended for its health, for a resize or for another image: its exit code says nothing of how it would have ended.
#[test]
fn what_is_ended_to_be_started_again_is() {
    for (policy, code, is_due, want) in [
        ("OnFailure", "0", false, "Succeeded"),
        ("OnFailure", "0", true, "Running"),
        ("Never", "137", false, "Failed"),
        ("Never", "137", true, "Running"),
    ] {
        let mut saved = saved(&[("a", code), ("b", code)]);
        for run in saved.containers.values_mut() {
            if let ContainerState::Terminated(ended) = &mut run.phase {
                ended.is_restart_due = is_due;
            }
        }
        assert_eq!(phase(&pod(policy, 0), &saved), want, "{policy} {code} {is_due}");
    }
    let own = |policy: Value| serde_json::from_value(json!({"name": "c", "restartPolicy": policy})).unwrap();
    for (of_pod, of_container, want) in [
        ("Always", Value::Null, true),
        ("OnFailure", Value::Null, true),
        ("Never", Value::Null, false),
        ("Never", json!("OnFailure"), true),
        ("Always", json!("Never"), false),
    ] {
        assert_eq!(may_restart(&pod(of_pod, 0), &own(of_container.clone())), want, "{of_pod} {of_container}");
    }
}
