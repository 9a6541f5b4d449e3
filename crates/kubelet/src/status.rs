//! A pod's status as the API shows it: pure functions of the pod and of what is known of its containers.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::Config;
use crate::worker::{Ended, Phase, Run, Saved};

/// Whether a container that ended with `code` is started again.
pub fn restarts(pod: &Pod, container: &Container, init: bool, code: i32) -> bool {
    if init && container.restart_policy.as_deref() == Some("Always") {
        return true;
    }
    // A container's own rules come before its own policy, and that before the pod's (KEP-5307).
    let rules = container.restart_policy_rules.iter().flatten();
    let mut fitting = rules.filter(|rule| rule.exit_codes.as_ref().is_some_and(|codes| fits(codes, code)));
    if fitting.any(|rule| rule.action == "Restart") {
        return true;
    }
    let own = container.restart_policy.as_deref();
    match own.or_else(|| pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref())) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        // An init container's success is final under every policy.
        _ => !init || code != 0,
    }
}

fn fits(codes: &ContainerRestartRuleOnExitCodes, code: i32) -> bool {
    let named = codes.values.iter().flatten().any(|value| *value == code);
    if codes.operator == "NotIn" { !named } else { named }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether no container will run any more, sidecars left aside.
pub fn is_over(pod: &Pod, saved: &Saved) -> bool {
    matches!(phase(pod, saved), "Succeeded" | "Failed")
}

fn ended<'a>(saved: &'a Saved, container: &Container) -> Option<&'a Ended> {
    match &saved.containers.get(&container.name)?.phase {
        Phase::Ended(ended) => Some(ended),
        _ => None,
    }
}

/// Whether a plain init container stands between the pod and its containers; `Err` if one failed for good.
fn initialized(pod: &Pod, saved: &Saved) -> Result<bool, ()> {
    for container in pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()) {
        if is_sidecar(container) {
            if !saved.containers.get(&container.name).is_some_and(|r| r.started || r.attempt > 0) {
                return Ok(false);
            }
            continue;
        }
        match ended(saved, container) {
            Some(e) if e.code == 0 => {}
            Some(e) if !restarts(pod, container, true, e.code) => return Err(()),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn phase(pod: &Pod, saved: &Saved) -> &'static str {
    let Some(spec) = &pod.spec else { return "Pending" };
    if saved.evicted.is_some() || saved.failed.is_some() {
        return "Failed";
    }
    if saved.finished {
        // Nothing changes any more; what was computed last is still so.
        let failed = spec.containers.iter().any(|c| ended(saved, c).is_none_or(|e| e.code != 0));
        return if failed || initialized(pod, saved).is_err() { "Failed" } else { "Succeeded" };
    }
    // Containers that ran once have passed the init containers, whatever those do now.
    let ran = spec
        .containers
        .iter()
        .any(|c| saved.containers.get(&c.name).is_some_and(|r| r.phase != Phase::Waiting || r.last.is_some()));
    match initialized(pod, saved) {
        Err(()) => return "Failed",
        Ok(false) if !ran => return "Pending",
        _ => {}
    }
    let mut failed = false;
    let mut all_over = true;
    let mut any_started = false;
    for container in &spec.containers {
        match saved.containers.get(&container.name).map(|r| (&r.phase, &r.last)) {
            Some((Phase::Ended(e), _)) if !restarts(pod, container, false, e.code) => {
                failed |= e.code != 0;
                any_started = true;
            }
            Some((Phase::Waiting, None)) | None => all_over = false,
            Some(_) => {
                all_over = false;
                any_started = true;
            }
        }
    }
    match (all_over, failed, any_started) {
        (true, true, _) => "Failed",
        (true, false, _) => "Succeeded",
        (false, _, true)
            if spec.containers.iter().all(|c| {
                saved.containers.get(&c.name).is_some_and(|r| r.phase != Phase::Waiting || r.last.is_some())
            }) =>
        {
            "Running"
        }
        _ => "Pending",
    }
}

fn time(text: &str) -> Value {
    text.parse::<Timestamp>().map_or(Value::Null, |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into())
}

fn terminated(ended: &Ended, runtime: &str) -> Value {
    let reason = match ended {
        e if e.oom => "OOMKilled",
        e if e.code == 128 && e.signal == 0 && !e.message.is_empty() => "StartError",
        e if e.code == 0 => "Completed",
        _ => "Error",
    };
    let mut state = json!({"exitCode": ended.code, "reason": reason, "startedAt": time(&ended.started_at),
        "finishedAt": time(&ended.finished_at), "containerID": container_id(runtime, &ended.id)});
    if !ended.message.is_empty() {
        state["message"] = ended.message.as_str().into();
    }
    json!({ "terminated": state })
}

fn container_id(runtime: &str, id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("{runtime}://{id}") }
}

/// With `ending` nothing of the pod is started again, whatever its policy.
fn container_status(
    pod: &Pod,
    container: &Container,
    (init, ending): (bool, bool),
    run: Option<&Run>,
    (default_reason, runtime): (&str, &str),
) -> Value {
    let empty = Run::default();
    let run = run.unwrap_or(&empty);
    let (state, last) = match &run.phase {
        Phase::Running { started_at } => (json!({"running": {"startedAt": time(started_at)}}), run.last.as_ref()),
        Phase::Ended(ended) if !ending && restarts(pod, container, init, ended.code) => {
            let (reason, message) = match &run.waiting {
                Some((reason, message)) => (reason.clone(), message.clone()),
                None => (
                    "CrashLoopBackOff".into(),
                    format!(
                        "back-off restarting failed container {} in pod {}",
                        container.name,
                        pod.metadata.name.clone().unwrap_or_default()
                    ),
                ),
            };
            (json!({"waiting": {"reason": reason, "message": message}}), Some(ended))
        }
        Phase::Ended(ended) => (terminated(ended, runtime), run.last.as_ref()),
        Phase::Waiting => {
            let mut waiting = json!({"reason": default_reason});
            if let Some((reason, message)) = &run.waiting {
                waiting = json!({"reason": reason, "message": message});
            }
            (json!({"waiting": waiting}), run.last.as_ref())
        }
    };
    // Of an init container, ready means that it is done.
    let done = matches!(&run.phase, Phase::Ended(e) if e.code == 0);
    let ready = if init && !is_sidecar(container) { done } else { run.ready };
    let mut status = json!({
        "name": container.name, "image": container.image, "imageID": run.image_id,
        "containerID": container_id(runtime, &run.id),
        "ready": ready, "started": run.started && matches!(run.phase, Phase::Running { .. }),
        "restartCount": run.attempt, "state": state, "lastState": last.map_or(json!({}), |ended| terminated(ended, runtime)),
    });
    if let Some(resources) = run.resources.as_ref().filter(|_| matches!(run.phase, Phase::Running { .. })) {
        status["resources"] = json!(resources);
        if let Some(requests) = &resources.requests {
            status["allocatedResources"] = json!(requests);
        }
    }
    status
}

/// The status of `pod`, whose containers `runtime` runs. Times of conditions that didn't change are kept.
pub fn compute(pod: &Pod, saved: &Saved, config: &Config, runtime: &str) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = phase(pod, saved);
    let is_initialized = initialized(pod, saved) == Ok(true) || matches!(phase, "Running" | "Succeeded");
    let reason = if is_initialized { "ContainerCreating" } else { "PodInitializing" };
    let over = matches!(phase, "Succeeded" | "Failed");
    let ending = pod.metadata.deletion_timestamp.is_some() || over;
    let statuses = |list: &[Container], init: bool, reason: &str| -> Vec<Value> {
        let of =
            |c: &Container| container_status(pod, c, (init, ending), saved.containers.get(&c.name), (reason, runtime));
        list.iter().map(of).collect()
    };
    let containers = statuses(&spec.containers, false, reason);
    let init = statuses(spec.init_containers.as_deref().unwrap_or_default(), true, "PodInitializing");
    let unready: Vec<&str> =
        containers.iter().filter(|c| c["ready"] != true).filter_map(|c| c["name"].as_str()).collect();
    let old = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let gates = spec.readiness_gates.iter().flatten();
    let gates_met = gates.into_iter().all(|g| old.iter().any(|c| c.type_ == g.condition_type && c.status == "True"));
    let containers_ready = unready.is_empty() && !over;
    let not_ready = if over {
        ("PodCompleted".to_string(), String::new())
    } else {
        ("ContainersNotReady".into(), format!("containers with unready status: [{}]", unready.join(" ")))
    };
    let no = || (String::new(), String::new());
    let conditions = [
        ("PodReadyToStartContainers", saved.sandbox.is_some(), no()),
        (
            "Initialized",
            is_initialized || over,
            if is_initialized || over {
                no()
            } else {
                ("ContainersNotInitialized".into(), "containers with incomplete status".into())
            },
        ),
        (
            "Ready",
            containers_ready && gates_met,
            if containers_ready && gates_met {
                no()
            } else if containers_ready {
                ("ReadinessGatesNotReady".into(), "a readiness gate isn't met".into())
            } else {
                not_ready.clone()
            },
        ),
        ("ContainersReady", containers_ready, if containers_ready { no() } else { not_ready }),
        ("PodScheduled", true, no()),
    ];
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut all: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, (reason, message))| {
            let status = if *status { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == *kind && c.status == status);
            let since =
                before.and_then(|c| serde_json::to_value(&c.last_transition_time).ok()).filter(|v| !v.is_null());
            let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null,
                                       "lastTransitionTime": since.unwrap_or_else(|| now.clone().into())});
            if !reason.is_empty() {
                condition["reason"] = reason.as_str().into();
                condition["message"] = message.as_str().into();
            }
            condition
        })
        .collect();
    // Conditions of others (readiness gates, disruption targets) stay.
    let others = old.iter().filter(|c| !conditions.iter().any(|(kind, ..)| c.type_ == *kind));
    all.extend(others.filter_map(|c| serde_json::to_value(c).ok()));
    let list = |ips: &[IpAddr]| json!(ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>());
    let mut status = json!({
        "phase": phase, "conditions": all, "containerStatuses": containers, "hostIP": config.node_ip().to_string(),
        "hostIPs": list(&config.node_ips), "startTime": saved.start_time,
    });
    if let Some(message) = &saved.evicted {
        status["reason"] = "Evicted".into();
        status["message"] = message.as_str().into();
        let list = status["conditions"].as_array_mut();
        if let Some(list) = list.filter(|l| !l.iter().any(|c| c["type"] == "DisruptionTarget")) {
            list.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                "message": message, "lastProbeTime": null, "lastTransitionTime": now}));
        }
    }
    if let Some((reason, message)) = &saved.failed {
        status["reason"] = reason.as_str().into();
        status["message"] = message.as_str().into();
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    let ephemeral = crate::container::ephemeral(pod);
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = ephemeral
            .iter()
            .map(|c| {
                // They are never started again, and never ready.
                let run = saved.containers.get(&c.name).map(|run| Run { ready: false, ..run.clone() });
                container_status(pod, c, (false, true), run.as_ref(), ("ContainerCreating", runtime))
            })
            .collect();
    }
    let ips = saved.sandbox.as_ref().map(|s| s.ips.as_slice()).unwrap_or_default();
    if let Some(first) = ips.first() {
        status["podIP"] = first.to_string().into();
        status["podIPs"] = list(ips);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, init: usize) -> Pod {
        let inits: Vec<Value> = (0..init).map(|i| json!({"name": format!("i{i}")})).collect();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "initContainers": inits,
                         "containers": [{"name": "a"}, {"name": "b"}]}});
        serde_json::from_value(pod).unwrap()
    }

    /// `r` running, `w` waiting, a number for an exit code.
    fn saved(states: &[(&str, &str)]) -> Saved {
        let mut saved = Saved::default();
        for (name, state) in states {
            let phase = match *state {
                "w" => Phase::Waiting,
                "r" => Phase::Running { started_at: "2026-01-01T00:00:00Z".into() },
                code => Phase::Ended(Ended { code: code.parse().unwrap(), ..Ended::default() }),
            };
            saved.containers.insert((*name).into(), Run { phase, ..Run::default() });
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
}
