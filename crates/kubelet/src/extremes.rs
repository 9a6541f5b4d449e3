//! The most extreme numbers, amounts and times in every field of a pod, a volume and a node that holds one: what this node derives from
//! them is bounded, and nothing panics.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::tests::config;
use crate::environment::downward_api;
use crate::node::{eviction, local_storage};
use crate::pod::admission::{Admitted, PodResources, under_pressure, unsupported};
use crate::pod::status;
use crate::spec::{resources, started};
use crate::state::{ContainerRecord, ContainerState, PodCheckpoint, Terminated};
use crate::{Backoff, images, volumes};

/// A pod in which most fields that matter to a node can be set.
fn pod() -> Value {
    let container = |name: &str, more: Value| {
        let mut container = json!({"name": name, "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "1Mi", "hugepages-2Mi": "2Mi"},
                "limits": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "1Mi", "hugepages-2Mi": "2Mi"}},
            "livenessProbe": {"tcpSocket": {"port": 80}}, "securityContext": {"runAsUser": 1}, "restartPolicyRules":
                [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"restartPolicy": "OnFailure", "nodeName": "node",
        "initContainers": [container("i", json!({"restartPolicy": "Always"}))],
        "containers": [container("a", json!({})), container("b", json!({}))],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "h", "emptyDir": {"medium": "HugePages"}}],
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        "overhead": {"cpu": "1"}, "securityContext": {"fsGroup": 1}}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
}

fn kind(name: &str) -> &'static api::Kind {
    api::KINDS.iter().find(|kind| kind.group.is_empty() && kind.kind == name).unwrap()
}

/// Each field of a kind with each extreme, one at a time. What can't be read is refused by the API.
fn each<T: DeserializeOwned>(name: &str, sample: &Value) -> Vec<(String, T)> {
    let mut all = Vec::new();
    for field in api::extremes::numeric_fields(kind(name)) {
        for value in field.extremes() {
            let mut object = sample.clone();
            field.set(&mut object, &value);
            if let Ok(read) = serde_json::from_value(object) {
                all.push((format!("{field}={value}"), read));
            }
        }
    }
    all
}

/// What is known of a pod whose containers have begun in any way.
fn saved(code: i32, attempt: i32, failures: u32, time: &str) -> PodCheckpoint {
    let ended =
        Terminated { code, signal: code, started_at: time.into(), finished_at: time.into(), ..Terminated::default() };
    let run = |phase: ContainerState| ContainerRecord {
        phase,
        attempt,
        failures,
        last: Some(ended.clone()),
        ..ContainerRecord::default()
    };
    let containers = [
        ("i", run(ContainerState::Running { started_at: time.into() })),
        ("a", run(ContainerState::Terminated(ended.clone()))),
        ("b", run(ContainerState::Waiting)),
    ];
    let containers = containers.map(|(name, run)| (name.to_string(), run)).into_iter().collect();
    PodCheckpoint { start_time: time.into(), containers, ..PodCheckpoint::default() }
}

/// All that is derived of a pod without asking the API.
fn derive(pod: &Pod, saved: &PodCheckpoint, node: &Node) {
    let spec = pod.spec.clone().unwrap_or_default();
    let told = status::compute(pod, saved, &config(), "timonel");
    assert!(["Pending", "Running", "Succeeded", "Failed"].map(Value::from).contains(&told["phase"]));
    for limits in started(&spec).map(resources::limits).chain([resources::pod_limits(pod)]) {
        assert!((2..=262_144).contains(&limits.cpu_shares) && limits.cpu_milli >= 0 && limits.memory_bytes >= 0);
    }
    for container in started(&spec) {
        assert!((-1000..=1000).contains(&resources::oom_score(pod, container, 1 << 30)));
        for code in [i32::MIN, -1, 0, 1, i32::MAX] {
            let _ = status::restarts(pod, container, false, &Terminated { code, ..Terminated::default() });
        }
        for amount in ["limits.cpu", "requests.memory", "limits.ephemeral-storage", "limits.hugepages-2Mi"] {
            for divisor in ["", "0", "1", "-1", "1n", "9E", "1e18"] {
                let _ = downward_api::resource(&config(), pod, container, amount, divisor);
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        let _ = volumes::claim_of(pod, volume);
    }
    let (own, other) = (PodResources::of(pod, false), PodResources::of(pod, true));
    let admitted = Admitted::default();
    admitted.hold("other", other.clone());
    for offer in ["0", "1", "-1", "9223372036854775807", "8Ei", "1n"] {
        let offer =
            ["cpu", "memory", "pods", "ephemeral-storage"].map(|name| (name.to_string(), offer.parse().unwrap()));
        for share in [&own, &other] {
            let _ = admitted.try_admit("u", pod, share, &BTreeMap::from(offer.clone()), Some(node));
        }
    }
    let _ = (under_pressure(pod, &own, &["MemoryPressure"]), unsupported(pod), images::image_names(pod));
    for resource in ["memory", "ephemeral-storage"] {
        let _ = eviction::requested(pod, resource);
    }
    let most = u64::MAX / 4;
    let used = |amount: u64| local_storage::Use {
        containers: ["a", "b", "i"].map(|name| (name.to_string(), amount)).into(),
        volumes: ["v", "h"].map(|name| (name.to_string(), amount)).into(),
    };
    for amount in [0, 1, most, u64::MAX] {
        let _ = local_storage::excess(pod, &used(amount));
    }
}

#[test]
fn a_node_bears_extremes_in_every_field_of_a_pod() {
    let all = each::<Pod>("Pod", &pod());
    assert!(all.len() > 1000, "{}", all.len());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "node"}})).unwrap();
    let times = ["", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "no time"];
    let runs = [(0, 0, 0), (i32::MIN, i32::MAX, u32::MAX), (i32::MAX, i32::MIN, 1)];
    for (number, (field, pod)) in all.iter().enumerate() {
        let (code, attempt, failures) = runs[number % runs.len()];
        let saved = saved(code, attempt, failures, times[number % times.len()]);
        let derived = std::panic::catch_unwind(|| derive(pod, &saved, &node));
        assert!(derived.is_ok(), "{field}");
    }
}

#[test]
fn a_node_bears_extremes_in_every_field_of_itself_and_of_volumes() {
    let sample: Pod = serde_json::from_value(pod()).unwrap();
    let node = json!({"metadata": {"name": "node"}, "spec": {"taints": [{"key": "a", "effect": "NoExecute"}]},
        "status": {"allocatable": {"cpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}});
    for (place, node) in each::<Node>("Node", &node) {
        let derived = std::panic::catch_unwind(|| derive(&sample, &PodCheckpoint::default(), &node));
        assert!(derived.is_ok(), "{place}");
    }
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"}}});
    for (_, volume) in each::<PersistentVolume>("PersistentVolume", &volume) {
        let _ = crate::volumes::csi::Source::of(&volume, false);
    }
}

proptest! {
    #[test]
    fn no_wait_for_a_restart_is_longer_than_the_most(first in 0u64..=u64::MAX, most in 0u64..=u64::MAX, failures in 0..=u32::MAX) {
        let (first, most) = (Duration::from_millis(first), Duration::from_millis(most));
        let backoff = Backoff { initial: first, max: most };
        prop_assert!(backoff.after(failures) <= most);
    }
}
