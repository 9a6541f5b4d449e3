//! A pod's status as the API shows it: pure functions of the pod and of what is known of its containers.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes, Pod, PodCondition, VolumeMount};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::Config;
use crate::spec::is_sidecar;
use crate::state::{Ended, Phase, Run, Saved};

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

/// Whether no container will run any more, sidecars left aside.
pub fn is_over(pod: &Pod, saved: &Saved) -> bool {
    matches!(phase(pod, saved), "Succeeded" | "Failed")
}

/// Whether a pod is over as the API knows it, and nothing of it is known here (any more): it stays as it is, and isn't begun again.
pub fn was_over(pod: &Pod, saved: &Saved) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let is_known = !saved.containers.is_empty() || saved.sandbox.is_some();
    let is_judged = saved.evicted.is_some() || saved.failed.is_some();
    matches!(phase, Some("Succeeded" | "Failed")) && !is_known && !is_judged
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
        (false, _, true) if spec.containers.iter().all(|c| began(saved, c)) => "Running",
        _ => "Pending",
    }
}

/// Whether a container has run at least once.
fn began(saved: &Saved, container: &Container) -> bool {
    saved.containers.get(&container.name).is_some_and(|run| run.phase != Phase::Waiting || run.last.is_some())
}

/// Whether any of the main containers has: then the pod is initialized, also while sidecars are started again.
fn any_began(pod: &Pod, saved: &Saved) -> bool {
    pod.spec.iter().flat_map(|s| &s.containers).any(|c| began(saved, c))
}

/// The phase that is told: as long as anything runs, a pod isn't over (upstream's status manager).
fn told_phase(pod: &Pod, saved: &Saved) -> &'static str {
    let phase = phase(pod, saved);
    let runs = saved.containers.values().any(|run| matches!(run.phase, Phase::Running { .. }));
    match phase {
        "Succeeded" | "Failed" if runs && any_began(pod, saved) => "Running",
        "Succeeded" | "Failed" if runs => "Pending",
        phase => phase,
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

/// What all statuses of a pod's containers have in common.
struct View<'a> {
    pod: &'a Pod,
    saved: &'a Saved,
    config: &'a Config,
    runtime: &'a str,
    /// Nothing of the pod is started again, whatever its policy.
    ending: bool,
    /// Why a container that wasn't begun waits.
    default_reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    Ephemeral,
}

impl View<'_> {
    fn statuses(&self, list: &[Container], role: Role) -> Vec<Value> {
        list.iter().map(|container| self.status(container, role)).collect()
    }

    /// How long a container waits that ends again and again, in upstream's words.
    fn back_off(&self, container: &Container, run: &Run) -> String {
        let wait = self.config.restart_backoff.after(run.failures.saturating_sub(1));
        let meta = &self.pod.metadata;
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
        let wait = go_duration(wait.as_secs());
        format!("back-off {wait} restarting failed container={} pod={name}_{namespace}({uid})", container.name)
    }

    fn state<'a>(&self, container: &Container, role: Role, run: &'a Run) -> (Value, Option<&'a Ended>) {
        let waits = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let waiting = run.waiting.as_ref().map(|waiting| waits(waiting.reason.as_str(), &waiting.message));
        match &run.phase {
            Phase::Running { started_at } => (json!({"running": {"startedAt": time(started_at)}}), run.last.as_ref()),
            // They are never started again.
            Phase::Ended(ended)
                if role != Role::Ephemeral
                    && !self.ending
                    && restarts(self.pod, container, role == Role::Init, ended.code) =>
            {
                let crashes = || waits("CrashLoopBackOff", &self.back_off(container, run));
                (waiting.unwrap_or_else(crashes), Some(ended))
            }
            Phase::Ended(ended) => (terminated(ended, self.runtime), run.last.as_ref()),
            Phase::Waiting if self.is_lost(container, role) => {
                let state = json!({"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
                    "message": "The container could not be located when the pod was terminated"});
                (json!({ "terminated": state }), run.last.as_ref())
            }
            Phase::Waiting => {
                let default = || json!({"waiting": {"reason": self.default_reason}});
                (waiting.unwrap_or_else(default), run.last.as_ref())
            }
        }
    }

    /// Whether a container of a pod that has ended never ran, or left nothing, though it could have run: who counts what came of a pod
    /// gets an end for it (upstream's status manager).
    fn is_lost(&self, container: &Container, role: Role) -> bool {
        let later = |list: &[Container]| {
            let after = list.iter().skip_while(|c| c.name != container.name).skip(1);
            after.into_iter().any(|c| began(self.saved, c))
        };
        let init = self.pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).cloned().collect::<Vec<_>>();
        let initialized = any_began(self.pod, self.saved) || initialized(self.pod, self.saved) == Ok(true);
        self.saved.ended
            && match role {
                Role::Main => initialized,
                Role::Init => initialized || later(&init),
                Role::Ephemeral => false,
            }
    }

    fn status(&self, container: &Container, role: Role) -> Value {
        let empty = Run::default();
        let run = self.saved.containers.get(&container.name).unwrap_or(&empty);
        let (state, last) = self.state(container, role, run);
        let runs = matches!(run.phase, Phase::Running { .. });
        // Of an init container, ready means that it is done.
        let done = matches!(&run.phase, Phase::Ended(e) if e.code == 0);
        let ready = match role {
            Role::Init if !is_sidecar(container) => done,
            Role::Ephemeral => false,
            _ => run.ready && runs,
        };
        let mut status = json!({
            "name": container.name, "image": container.image, "imageID": run.image_id,
            "containerID": container_id(self.runtime, &run.id), "ready": ready, "started": run.started && runs,
            "restartCount": run.attempt, "state": state,
            "lastState": last.map_or(json!({}), |ended| terminated(ended, self.runtime)),
        });
        if let Some(resources) = run.resources.as_ref().filter(|_| runs) {
            status["resources"] = json!(resources);
            if let Some(requests) = &resources.requests {
                status["allocatedResources"] = json!(requests);
            }
        }
        let mounts = self.mounts(container);
        if !mounts.is_empty() {
            status["volumeMounts"] = mounts.into();
        }
        status
    }

    /// How a container has its volumes: what is read-only may be so all the way down (KEP-3857).
    fn mounts(&self, container: &Container) -> Vec<Value> {
        let whole = |mount: &VolumeMount| match mount.recursive_read_only.as_deref() {
            Some("Enabled") => true,
            // Other runtimes say by handler whether they can; ours can.
            Some("IfPossible") => self.runtime == crate::container_runtime::OWN,
            _ => false,
        };
        let mount = |mount: &VolumeMount| {
            let mut told = json!({"name": mount.name, "mountPath": mount.mount_path});
            if mount.read_only == Some(true) {
                told["readOnly"] = true.into();
                told["recursiveReadOnly"] = if whole(mount) { "Enabled" } else { "Disabled" }.into();
            }
            told
        };
        container.volume_mounts.iter().flatten().map(mount).collect()
    }
}

/// Seconds as Go writes a duration: `10s`, `2m40s`, `1h0m0s`.
fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// A condition's state: whether it holds, and if there is something to say, the reason and the message.
type State = (bool, &'static str, String);

fn names<'a>(statuses: impl Iterator<Item = &'a Value>) -> String {
    statuses.filter_map(|status| status["name"].as_str()).collect::<Vec<_>>().join(" ")
}

/// `Initialized`: all init containers are done, and the sidecars started; or the main containers were begun already.
fn is_initialized(pod: &Pod, saved: &Saved, phase: &str, init: &[Value]) -> State {
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
fn are_ready(pod: &Pod, phase: &str, containers: &[Value], init: &[Value]) -> State {
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
fn is_ready(pod: &Pod, containers_ready: &State, present: &[PodCondition]) -> State {
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
fn conditions(pod: &Pod, now: &str, ours: &[(&str, State)], present: &[PodCondition]) -> Vec<Value> {
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

/// The status of `pod`, whose containers `runtime` runs. Times of conditions that didn't change are kept.
pub fn compute(pod: &Pod, saved: &Saved, config: &Config, runtime: &str) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = told_phase(pod, saved);
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
    let ephemeral = crate::spec::ephemeral(pod);
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

    fn computed(pod: &Pod, saved: &Saved) -> Value {
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
            assert_eq!(
                condition(&status, "Initialized"),
                ("False", "ContainersNotInitialized", incomplete),
                "{policy}"
            );
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
            let saved = Saved { ended: true, ..saved(states) };
            let status = computed(&pod(policy, init), &saved);
            assert_eq!(status["phase"], want, "{policy} {states:?}");
        }
        let told = |init: usize, states: &[(&str, &str)]| {
            let status = computed(&pod("Always", init), &Saved { ended: true, ..saved(states) });
            let state = &status["containerStatuses"][1]["state"];
            state["terminated"]["reason"].as_str().or(state["waiting"]["reason"].as_str()).unwrap_or("").to_string()
        };
        assert_eq!(told(0, &[]), "ContainerStatusUnknown");
        assert_eq!(told(1, &[("i0", "1")]), "PodInitializing");
        assert_eq!(told(1, &[("i0", "0"), ("a", "0")]), "ContainerStatusUnknown");
    }

    #[test]
    fn what_is_over_and_not_known_here_is_left_alone() {
        let of =
            |phase: &str| Pod { status: serde_json::from_value(json!({"phase": phase})).unwrap(), ..pod("Never", 0) };
        for (phase, want) in [("Succeeded", true), ("Failed", true), ("Running", false), ("Pending", false)] {
            assert_eq!(was_over(&of(phase), &Saved::default()), want, "{phase}");
        }
        // Its own verdict is told until the API knows it.
        assert!(!was_over(&of("Failed"), &saved(&[("a", "1"), ("b", "1")])));
        assert!(!was_over(&of("Failed"), &Saved { evicted: Some("no room".into()), ..Saved::default() }));
    }

    #[test]
    fn nothing_is_over_while_it_runs() {
        let saved = Saved { evicted: Some("no room".into()), ..saved(&[("a", "r"), ("b", "r")]) };
        let status = computed(&pod("Always", 0), &saved);
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Running"), &Value::Null));
        assert!(is_over(&pod("Always", 0), &saved));
        let saved = Saved { evicted: Some("no room".into()), ..self::saved(&[("a", "137"), ("b", "137")]) };
        let status = computed(&pod("Always", 0), &saved);
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
        assert_eq!(condition(&status, "DisruptionTarget"), ("True", "TerminationByKubelet", "no room"));
        let status = computed(&pod("Always", 0), &Saved { preempted: true, ..saved });
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
        saved.containers.get_mut("i0").unwrap().phase = Phase::Ended(Ended { code: 1, ..Ended::default() });
        assert_eq!(condition(&computed(&pod, &saved), "Initialized"), ("True", "", ""));
    }

    #[test]
    fn how_a_container_has_its_volumes_is_told() {
        let mut pod = pod("Always", 0);
        let mounts = json!([{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/b", "readOnly": true},
            {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"}]);
        pod.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
        // Also before the container runs.
        let told = computed(&pod, &Saved::default())["containerStatuses"].clone();
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
}
