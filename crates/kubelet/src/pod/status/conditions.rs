//! Conditions of pods.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};

use super::phase::any_began;
use crate::spec::is_sidecar;
use crate::state::PodCheckpoint;

/// A condition's state: whether it holds, and if there is something to say, the reason and the message.
pub type State = (bool, &'static str, String);

fn names<'a>(statuses: impl Iterator<Item = &'a Value>) -> String {
    statuses.filter_map(|status| status["name"].as_str()).collect::<Vec<_>>().join(" ")
}

/// `Initialized`: all init containers are done, and the sidecars started; or the main containers were begun already.
pub fn is_initialized(pod: &Pod, saved: &PodCheckpoint, phase: &str, init: &[Value]) -> State {
    let sidecar = |name: &Value| {
        let list = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
        list.into_iter().any(|c| name.as_str() == Some(c.name.as_str()) && is_sidecar(c))
    };
    let is_done = |status: &&Value| status[if sidecar(&status["name"]) { "started" } else { "ready" }] == true;
    let incomplete = names(init.iter().filter(|status| !is_done(status)));
    match phase {
        "Succeeded" => (true, "PodCompleted", String::new()),
        _ if any_began(pod, saved) || incomplete.is_empty() => (true, "", String::new()),
        _ => (false, "ContainersNotInitialized", format!("containers with incomplete status: [{incomplete}]")),
    }
}

/// `ContainersReady`: the main containers and the sidecars are ready, and the pod isn't over.
pub fn are_ready(pod: &Pod, phase: &str, containers: &[Value], init: &[Value]) -> State {
    let sidecars = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
    let sidecars: Vec<&str> = sidecars.map(|c| c.name.as_str()).collect();
    let sidecars = init.iter().filter(|status| status["name"].as_str().is_some_and(|name| sidecars.contains(&name)));
    let unready = names(sidecars.chain(containers).filter(|status| status["ready"] != true));
    match phase {
        "Succeeded" => (false, "PodCompleted", String::new()),
        "Failed" => (false, "PodFailed", String::new()),
        _ if unready.is_empty() => (true, "", String::new()),
        _ => (false, "ContainersNotReady", format!("containers with unready status: [{unready}]")),
    }
}

/// `Ready`: all containers are, and so is what others say of the pod (readiness gates).
pub fn is_ready(pod: &Pod, containers_ready: &State, present: &[PodCondition]) -> State {
    if !containers_ready.0 {
        return containers_ready.clone();
    }
    let unmet = |gate: &str| match present.iter().find(|c| c.type_ == gate) {
        None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
        Some(c) if c.status != "True" => {
            Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", c.status))
        }
        Some(_) => None,
    };
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let unmet: Vec<String> = gates.filter_map(|gate| unmet(&gate.condition_type)).collect();
    match unmet.is_empty() {
        true => (true, "", String::new()),
        false => (false, "ReadinessGatesNotReady", unmet.join(", ")),
    }
}

/// All conditions: ours anew, with their times where nothing changed, and those of others (readiness gates, disruption targets) as they are.
pub fn conditions(pod: &Pod, now: &str, ours: &[(&str, State)], present: &[PodCondition]) -> Vec<Value> {
    let condition = |(kind, (holds, reason, message)): &(&str, State)| {
        let status = if *holds { "True" } else { "False" };
        let before = present.iter().find(|c| c.type_ == *kind && c.status == status);
        let since = before.and_then(|c| serde_json::to_value(&c.last_transition_time).ok()).filter(|v| !v.is_null());
        let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null,
                                   "lastTransitionTime": since.unwrap_or_else(|| now.into())});
        if let Some(generation) = pod.metadata.generation {
            condition["observedGeneration"] = generation.into();
        }
        for (field, text) in [("reason", *reason), ("message", message.as_str())] {
            if !text.is_empty() {
                condition[field] = text.into();
            }
        }
        condition
    };
    let others = present.iter().filter(|c| !ours.iter().any(|(kind, _)| c.type_ == *kind));
    ours.iter().map(condition).chain(others.filter_map(|c| serde_json::to_value(c).ok())).collect()
}
