//! What `kubectl get pods` prints.

use apimachinery::{ObjectExt as _, clock};
use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, Column, NAME, Printer, age, int, name, or_none, text, wide};

pub const PRINTER: Printer = Printer { columns: COLUMNS, row };

const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let state = pod_state(o, now);
    let gates = o.array_at(&["spec", "readinessGates"]);
    let conditions = o.array_at(&["status", "conditions"]);
    let met = gates
        .iter()
        .filter(|g| conditions.iter().any(|c| c["type"] == g["conditionType"] && c["status"] == "True"))
        .count();
    let gates = if gates.is_empty() { or_none("") } else { format!("{met}/{}", gates.len()).into() };
    vec![
        name(o),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        state.restarts.into(),
        age(o, now),
        or_none(o.str_at(&["status", "podIP"])),
        or_none(o.str_at(&["spec", "nodeName"])),
        or_none(o.str_at(&["status", "nominatedNodeName"])),
        gates,
    ]
}

struct PodState {
    reason: String,
    ready: usize,
    total: usize,
    restarts: String,
}

/// Restarts of containers, and when one of them last ended.
#[derive(Default, Clone, Copy)]
struct Restarts<'a> {
    count: i64,
    last: &'a str,
}

impl<'a> Restarts<'a> {
    fn add(&mut self, status: &'a Value) {
        self.count += int(status, &["restartCount"]);
        self.last = self.last.max(status.str_at(&["lastState", "terminated", "finishedAt"]));
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            ended if self.count > 0 && !ended.is_empty() => format!("{} ({} ago)", self.count, clock::age(ended, now)),
            _ => self.count.to_string(),
        }
    }
}

/// What the init containers of a pod say.
#[derive(Default)]
struct InitState<'a> {
    /// Why the pod isn't initialized yet.
    reason: Option<String>,
    all: Restarts<'a>,
    /// Of sidecars alone, which count also once the pod is initialized.
    sidecars: Restarts<'a>,
    /// Sidecars that are ready.
    ready: usize,
}

impl<'a> InitState<'a> {
    fn of(o: &'a Value) -> Self {
        let specs = o.array_at(&["spec", "initContainers"]);
        let mut state = InitState::default();
        for (i, s) in o.array_at(&["status", "initContainerStatuses"]).iter().enumerate() {
            state.all.add(s);
            let is_sidecar =
                specs.iter().any(|spec| spec["name"] == s.str_at(&["name"]) && spec["restartPolicy"] == "Always");
            if is_sidecar {
                state.sidecars.add(s);
                state.ready += usize::from(s["ready"] == true);
            }
            if state.reason.is_some() {
                continue;
            }
            let terminated = &s["state"]["terminated"];
            if terminated.is_object() && int(terminated, &["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar && s["started"] == true {
                continue;
            }
            let waiting = s.str_at(&["state", "waiting", "reason"]);
            state.reason = Some(if terminated.is_object() {
                format!("Init:{}", exit_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", specs.len())
            });
        }
        state
    }
}

/// What the STATUS column says, by upstream's rules: the first thing that keeps the pod from running.
fn pod_state(o: &Value, now: Timestamp) -> PodState {
    let phase = o.str_at(&["status", "phase"]);
    let mut reason = o.str_at(&["status", "reason"]).to_string();
    if reason.is_empty() {
        reason = phase.to_string();
    }
    let conditions = o.array_at(&["status", "conditions"]);
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let specs = o.array_at(&["spec", "initContainers"]);
    let sidecars = specs.iter().filter(|s| s["restartPolicy"] == "Always").count();
    let total = o.array_at(&["spec", "containers"]).len() + sidecars;
    let init = InitState::of(o);
    let (mut ready, mut count) = (init.ready, init.all);
    if let Some(init_reason) = &init.reason {
        reason.clone_from(init_reason);
    }
    // A sidecar that is down later on doesn't hide the main containers.
    let initialized = conditions.iter().any(|c| c["type"] == "Initialized" && c["status"] == "True");
    if init.reason.is_none() || initialized {
        count = init.sidecars;
        let mut running = false;
        for s in o.array_at(&["status", "containerStatuses"]).iter().rev() {
            count.add(s);
            let waiting = s.str_at(&["state", "waiting", "reason"]);
            let terminated = &s["state"]["terminated"];
            if !waiting.is_empty() {
                reason = waiting.into();
            } else if terminated.is_object() {
                reason = exit_reason(terminated);
            } else if s["ready"] == true && s["state"]["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            reason = if is_ready { "Running".into() } else { "NotReady".into() };
        }
    }
    if o.is_deleting() {
        if o.str_at(&["status", "reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    PodState { reason, ready, total, restarts: count.text(now) }
}

fn exit_reason(terminated: &Value) -> String {
    let reason = terminated.str_at(&["reason"]);
    if !reason.is_empty() {
        return reason.into();
    }
    match int(terminated, &["signal"]) {
        0 => format!("ExitCode:{}", int(terminated, &["exitCode"])),
        signal => format!("Signal:{signal}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(pod: Value) -> String {
        let s = pod_state(&pod, Timestamp::now());
        format!("{}/{} {} {}", s.ready, s.total, s.reason, s.restarts)
    }

    #[test]
    fn pod_status_names_the_first_obstacle() {
        let one = json!({"containers": [{"name": "a"}]});
        let with = |status: Value| json!({"spec": one, "status": status});
        assert_eq!(status(with(json!({"phase": "Pending"}))), "0/1 Pending 0");
        assert_eq!(
            status(with(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}}]}))),
            "1/1 Running 0"
        );
        assert_eq!(
            status(with(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}))),
            "0/1 CrashLoopBackOff 2"
        );
        assert_eq!(
            status(with(json!({"phase": "Failed", "containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}))),
            "0/1 ExitCode:3 0"
        );
        let init = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "restartCount": 0, "state": {"running": {}}}]}});
        assert_eq!(status(init), "0/1 Init:1/2 0");
    }

    #[test]
    fn a_sidecar_that_is_down_does_not_hide_the_main_containers() {
        let pod = |initialized: &str| {
            let specs = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
            let statuses = json!([
                {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}, "lastState": {"terminated": {"finishedAt": "2020-01-01T00:00:00Z"}}},
                {"name": "s", "restartCount": 3, "started": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": specs}, "status": {"phase": "Running",
                "conditions": [{"type": "Initialized", "status": initialized}], "initContainerStatuses": statuses,
                "containerStatuses": [{"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}}]}})
        };
        assert_eq!(status(pod("True")), "1/2 Init:CrashLoopBackOff 4");
        assert!(status(pod("False")).starts_with("0/2 Init:CrashLoopBackOff 5 ("));
    }
}
