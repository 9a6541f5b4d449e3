//! Phases of pods and restarts of containers, by their policies.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes, Pod};

use crate::spec::is_sidecar;
use crate::state::{ContainerState, PodCheckpoint, Terminated};

/// The policy by which a container is started again: its own, or the pod's.
fn policy<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a str> {
    let of_pod = || pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    container.restart_policy.as_deref().or_else(of_pod)
}

/// Whether a container that is ended for its health may be started again. Its rules are about exit codes, and don't count here.
pub fn may_restart(pod: &Pod, container: &Container) -> bool {
    policy(pod, container) != Some("Never")
}

/// Whether a container that has ended is started again.
pub fn restarts(pod: &Pod, container: &Container, init: bool, ended: &Terminated) -> bool {
    if ended.is_restart_due || (init && container.restart_policy.as_deref() == Some("Always")) {
        return true;
    }
    let code = ended.code;
    // A container's own rules come before its own policy, and that before the pod's (KEP-5307).
    let rules = container.restart_policy_rules.iter().flatten();
    let mut fitting = rules.filter(|rule| rule.exit_codes.as_ref().is_some_and(|codes| fits(codes, code)));
    if fitting.any(|rule| rule.action == "Restart") {
        return true;
    }
    match policy(pod, container) {
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

/// Whether no container will run any more, sidecars left aside.
pub fn is_over(pod: &Pod, saved: &PodCheckpoint) -> bool {
    matches!(phase(pod, saved), "Succeeded" | "Failed")
}

/// Whether a pod is over as the API knows it, and nothing of it is known here (any more): it stays as it is, and isn't begun again.
pub fn was_over(pod: &Pod, saved: &PodCheckpoint) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let is_known = !saved.containers.is_empty() || saved.sandbox.is_some();
    let is_judged = saved.evicted.is_some() || saved.failed.is_some();
    matches!(phase, Some("Succeeded" | "Failed")) && !is_known && !is_judged
}

fn ended<'a>(saved: &'a PodCheckpoint, container: &Container) -> Option<&'a Terminated> {
    match &saved.containers.get(&container.name)?.phase {
        ContainerState::Terminated(ended) => Some(ended),
        _ => None,
    }
}

/// Whether all plain init containers have succeeded and all sidecars have started.
///
/// # Errors
/// An init container has failed for good: the pod won't be initialized.
pub fn initialized(pod: &Pod, saved: &PodCheckpoint) -> Result<bool, ()> {
    for container in pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()) {
        if is_sidecar(container) {
            if !saved.containers.get(&container.name).is_some_and(|r| r.started || r.attempt > 0) {
                return Ok(false);
            }
            continue;
        }
        match ended(saved, container) {
            Some(e) if e.code == 0 && !e.is_restart_due => {}
            Some(e) if !restarts(pod, container, true, e) => return Err(()),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The phase by the containers' states and the pod's policies.
pub fn phase(pod: &Pod, saved: &PodCheckpoint) -> &'static str {
    let Some(spec) = &pod.spec else { return "Pending" };
    if saved.evicted.is_some() || saved.failed.is_some() {
        return "Failed";
    }
    if saved.finished || saved.ended {
        // Nothing changes any more, whatever the pod's policy: what never ran, or was lost, has failed (KEP-3329).
        let failed = spec.containers.iter().any(|c| ended(saved, c).is_none_or(|e| e.code != 0));
        return if failed || initialized(pod, saved).is_err() { "Failed" } else { "Succeeded" };
    }
    // Containers that ran once have passed the init containers, whatever those do now.
    let ran = any_began(pod, saved);
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
            Some((ContainerState::Terminated(e), _)) if !restarts(pod, container, false, e) => {
                failed |= e.code != 0;
                any_started = true;
            }
            Some((ContainerState::Waiting, None)) | None => all_over = false,
            Some(_) => {
                all_over = false;
                any_started = true;
            }
        }
    }
    match (all_over, failed, any_started) {
        (true, true, _) => "Failed",
        (true, false, _) => "Succeeded",
        (false, _, true) if spec.containers.iter().all(|c| began(saved, c)) => "Running",
        _ => "Pending",
    }
}

/// Whether a container has run at least once.
pub fn began(saved: &PodCheckpoint, container: &Container) -> bool {
    saved.containers.get(&container.name).is_some_and(|run| run.phase != ContainerState::Waiting || run.last.is_some())
}

/// Whether any of the main containers has: then the pod is initialized, also while sidecars are started again.
pub fn any_began(pod: &Pod, saved: &PodCheckpoint) -> bool {
    pod.spec.iter().flat_map(|s| &s.containers).any(|c| began(saved, c))
}

/// The phase of the status: as long as anything runs, a pod isn't over (upstream's status manager).
pub fn api_phase(pod: &Pod, saved: &PodCheckpoint) -> &'static str {
    let phase = phase(pod, saved);
    let runs = saved.containers.values().any(|run| matches!(run.phase, ContainerState::Running { .. }));
    match phase {
        "Succeeded" | "Failed" if runs && any_began(pod, saved) => "Running",
        "Succeeded" | "Failed" if runs => "Pending",
        phase => phase,
    }
}
