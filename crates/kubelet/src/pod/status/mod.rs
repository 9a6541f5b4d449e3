//! A pod's status as the API shows it: pure functions of the pod and of what is known of its containers.

mod conditions;
mod containers;
mod phase;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::Config;
use crate::spec::ephemeral;
use crate::state::PodCheckpoint;
use conditions::{are_ready, conditions, is_initialized, is_ready};
use containers::{Role, View};
use phase::api_phase;
pub use phase::{is_over, may_restart, restarts, was_over};

/// Says of each container how the devices are that it has (KEP-4680).
pub fn set_devices(status: &mut Value, devices: impl Fn(&str) -> Vec<Value>) {
    for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
        let devices = devices(container["name"].as_str().unwrap_or_default());
        if !devices.is_empty() {
            container["allocatedResourcesStatus"] = devices.into();
        }
    }
}

/// The status of `pod`, whose containers `runtime` runs. Times of conditions that didn't change are kept.
pub fn compute(pod: &Pod, saved: &PodCheckpoint, config: &Config, runtime: &str) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = api_phase(pod, saved);
    let over = matches!(phase, "Succeeded" | "Failed");
    let ending = pod.metadata.deletion_timestamp.is_some() || is_over(pod, saved);
    let init_containers = spec.init_containers.as_deref().unwrap_or_default();
    let default_reason = if init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let view = View { pod, saved, config, runtime, ending, default_reason };
    let containers = view.statuses(&spec.containers, Role::Main);
    let init = view.statuses(init_containers, Role::Init);
    let present = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let containers_ready = are_ready(pod, phase, &containers, &init);
    let plain = |holds: bool| (holds, "", String::new());
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ours = [
        ("PodReadyToStartContainers", plain(saved.sandbox.is_some() && !saved.ended)),
        ("Initialized", is_initialized(pod, saved, phase, &init)),
        ("Ready", is_ready(pod, &containers_ready, &present)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", plain(true)),
    ];
    let list = |ips: &[IpAddr]| json!(ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>());
    let mut status = json!({
        "phase": phase, "conditions": conditions(pod, &now, &ours, &present), "containerStatuses": containers,
        "hostIP": config.node_ip().to_string(), "hostIPs": list(&config.node_ips), "startTime": saved.start_time,
    });
    if let Some(generation) = pod.metadata.generation {
        status["observedGeneration"] = generation.into();
    }
    if let Some(message) = saved.evicted.as_ref().filter(|_| over) {
        status["reason"] = if saved.preempted { "Preempting" } else { "Evicted" }.into();
        status["message"] = message.as_str().into();
    }
    if let Some(message) = &saved.evicted
        && let Some(list) = status["conditions"].as_array_mut()
        && !list.iter().any(|c| c["type"] == "DisruptionTarget")
    {
        let why = if saved.preempted { "Pod was preempted by Kubelet to accommodate a critical pod." } else { message };
        list.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
            "message": why, "lastProbeTime": null, "lastTransitionTime": now}));
    }
    if let Some((reason, message)) = saved.failed.as_ref().filter(|_| over) {
        status["reason"] = reason.as_str().into();
        status["message"] = message.as_str().into();
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    let ephemeral = ephemeral(pod);
    if !ephemeral.is_empty() {
        let view = View { default_reason: "ContainerCreating", ..view };
        status["ephemeralContainerStatuses"] = view.statuses(&ephemeral, Role::Ephemeral).into();
    }
    let ips = saved.sandbox.as_ref().map(|s| s.ips.as_slice()).unwrap_or_default();
    if let Some(first) = ips.first() {
        status["podIP"] = first.to_string().into();
        status["podIPs"] = list(ips);
    }
    status
}
