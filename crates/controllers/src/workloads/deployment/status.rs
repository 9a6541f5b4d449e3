//! A Deployment's status, as a pure function of its sets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::plan::narrow;
use crate::toolkit::pods;

pub struct Facts<'a> {
    pub new: Option<&'a ReplicaSet>,
    pub old: &'a [Arc<ReplicaSet>],
    /// Why the new set couldn't be made.
    pub failure: Option<&'a kube::Error>,
    pub now: Timestamp,
}

/// "No deadline" in the API.
const NEVER: i32 = i32::MAX;

fn count(set: &ReplicaSet, of: fn(&ReplicaSetStatus) -> i32) -> i32 {
    set.status.as_ref().map_or(0, of)
}

/// What all sets have together.
fn total(new: Option<&ReplicaSet>, old: &[Arc<ReplicaSet>], of: fn(&ReplicaSetStatus) -> i32) -> i32 {
    let sets = new.into_iter().chain(old.iter().map(AsRef::as_ref));
    narrow(sets.map(|set| i64::from(count(set, of))).sum())
}

/// Whether all replicas are of the new version and available.
pub fn is_complete(spec: &DeploymentSpec, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> bool {
    let wanted = spec.replicas.unwrap_or(1);
    let updated = count(new, |s| s.replicas);
    let olds = total(None, old, |s| s.replicas);
    let available = total(Some(new), old, |s| s.available_replicas.unwrap_or(0));
    updated == wanted && olds == 0 && available >= wanted
}

/// The status, and when to look again though nothing happens.
pub fn compute(deployment: &Deployment, facts: &Facts<'_>) -> (Value, Option<Duration>) {
    let spec = &deployment.spec;
    let wanted = spec.replicas.unwrap_or(1);
    let sum = |of: fn(&ReplicaSetStatus) -> i32| total(facts.new, facts.old, of);
    let (replicas, available) = (sum(|s| s.replicas), sum(|s| s.available_replicas.unwrap_or(0)));
    let updated = facts.new.map_or(0, |s| count(s, |s| s.replicas));
    let ready = sum(|s| s.ready_replicas.unwrap_or(0));
    let rolling =
        spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let available_condition = if available >= wanted.saturating_sub(pods::scaled(rolling, wanted, false)) {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let before = serde_json::to_value(&deployment.status).unwrap_or(Value::Null);
    let conditions = Conditions { before: &before, now: facts.now };
    let mut list =
        vec![conditions.make("Available", available_condition.0, available_condition.1, available_condition.2, false)];
    let mut again = None;
    let deadline = spec.progress_deadline_seconds.unwrap_or(NEVER);
    if deadline != NEVER {
        let counts = Counts { replicas, updated, ready, available };
        let (condition, left) = progress(deployment, facts, &conditions, counts, deadline);
        list.extend(condition);
        again = left;
    }
    list.extend(failing_set(facts));
    let status = json!({
        "observedGeneration": deployment.metadata.generation, "replicas": replicas, "updatedReplicas": updated,
        "readyReplicas": ready, "availableReplicas": available,
        "unavailableReplicas": wanted.max(replicas).saturating_sub(available).max(0),
        "terminatingReplicas": sum(|s| s.terminating_replicas.unwrap_or(0)),
        "conditions": list,
    });
    (status, again)
}

/// What a set says of pods that it can't create.
fn failing_set(facts: &Facts<'_>) -> Option<Value> {
    let sets = facts.new.into_iter().chain(facts.old.iter().map(AsRef::as_ref));
    sets.into_iter().find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions
            .iter()
            .find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))?;
        let time = serde_json::to_value(&failure.last_transition_time).ok()?;
        Some(json!({"type": "ReplicaFailure", "status": "True", "reason": failure.reason, "message": failure.message,
            "lastTransitionTime": time, "lastUpdateTime": time}))
    })
}

struct Counts {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
}

/// The condition `Progressing`, and how long until the deadline.
fn progress(
    deployment: &Deployment,
    facts: &Facts<'_>,
    conditions: &Conditions<'_>,
    counts: Counts,
    deadline: i32,
) -> (Option<Value>, Option<Duration>) {
    let spec = &deployment.spec;
    let present = conditions.find("Progressing");
    let reason = present.map_or("", |c| c["reason"].as_str().unwrap_or(""));
    if let Some(error) = facts.failure {
        let text = informer::error_message(error);
        return (Some(conditions.make("Progressing", "False", "ReplicaSetCreateError", &text, false)), None);
    }
    if spec.paused == Some(true) {
        return (
            Some(conditions.make("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", false)),
            None,
        );
    }
    if reason == "DeploymentPaused" {
        let resumed = conditions.make("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", false);
        return (Some(resumed), Some(Duration::from_secs(1)));
    }
    let Some(new) = facts.new else { return (present.cloned(), None) };
    let name = new.name_any();
    if is_complete(spec, new, facts.old) {
        let text = format!("ReplicaSet {name:?} has successfully progressed.");
        return (Some(conditions.make("Progressing", "True", "NewReplicaSetAvailable", &text, false)), None);
    }
    let of_another = !present.is_some_and(|c| c["message"].as_str().is_some_and(|m| m.contains(&format!("{name:?}"))));
    // Once complete, pods that come and go, or a new number of them, are no roll-out.
    if reason == "NewReplicaSetAvailable" && counts.replicas == counts.updated && !of_another {
        return (present.cloned(), None);
    }
    let status = deployment.status.clone().unwrap_or_default();
    let old = |n: Option<i32>| n.unwrap_or(0);
    let moved = counts.updated > old(status.updated_replicas)
        || counts.replicas - counts.updated < old(status.replicas) - old(status.updated_replicas)
        || counts.ready > old(status.ready_replicas)
        || counts.available > old(status.available_replicas)
        || of_another;
    let text = format!("ReplicaSet {name:?} is progressing.");
    let allowed = SignedDuration::from_secs(i64::from(deadline));
    if moved {
        let again = Duration::try_from(allowed).unwrap_or_default() + Duration::from_secs(1);
        return (Some(conditions.make("Progressing", "True", "ReplicaSetUpdated", &text, true)), Some(again));
    }
    let since = present.and_then(|c| c["lastUpdateTime"].as_str()).and_then(|t| t.parse::<Timestamp>().ok());
    let so_far = since.map_or(SignedDuration::ZERO, |t| facts.now.duration_since(t));
    if reason == "ProgressDeadlineExceeded" || so_far > allowed {
        let text = format!("ReplicaSet {name:?} has timed out progressing.");
        return (Some(conditions.make("Progressing", "False", "ProgressDeadlineExceeded", &text, false)), None);
    }
    let left = Duration::try_from(allowed - so_far).unwrap_or_default() + Duration::from_secs(1);
    (present.cloned(), Some(left))
}

struct Conditions<'a> {
    before: &'a Value,
    now: Timestamp,
}

impl Conditions<'_> {
    fn find(&self, kind: &str) -> Option<&Value> {
        self.before["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
    }

    /// A condition with the times of the present one, as far as it says the same. `touched` renews its update time.
    fn make(&self, kind: &str, status: &str, reason: &str, message: &str, touched: bool) -> Value {
        let now = json!(apimachinery::clock::format_rfc3339(self.now));
        let same = self.find(kind).filter(|c| c["status"] == status);
        let untouched = same.filter(|c| !touched && c["reason"] == reason && c["message"] == message);
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": same.map_or(now.clone(), |c| c["lastTransitionTime"].clone()),
            "lastUpdateTime": untouched.map_or(now, |c| c["lastUpdateTime"].clone())})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"selector": {}},
            "status": {"replicas": replicas, "availableReplicas": available}}))
        .unwrap()
    }

    fn progressing(spec: Value, status: Value, new: &ReplicaSet, now: &str) -> (String, String, Option<u64>) {
        let mut deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {}, "template": {},
            "progressDeadlineSeconds": 60}, "status": status});
        for (key, value) in spec.as_object().unwrap() {
            deployment["spec"][key] = value.clone();
        }
        let deployment = serde_json::from_value(deployment).unwrap();
        let facts = Facts { new: Some(new), old: &[], failure: None, now: now.parse().unwrap() };
        let (status, again) = compute(&deployment, &facts);
        let condition = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing").unwrap();
        let text = |key: &str| condition[key].as_str().unwrap().to_string();
        (text("status"), text("reason"), again.map(|d| d.as_secs()))
    }

    #[test]
    fn progress_stalls_ends_and_is_paused() {
        let updated = json!({"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "conditions": [
            {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": "ReplicaSet \"a\" is progressing.",
             "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let check =
            |spec: Value, available: i32, now: &str| progressing(spec, updated.clone(), &set("a", 2, available), now);
        let of = |status: &str, reason: &str, again: Option<u64>| (status.to_string(), reason.to_string(), again);
        let none = json!({});
        assert_eq!(check(none.clone(), 1, "2026-01-01T00:00:50Z"), of("True", "ReplicaSetUpdated", Some(11)));
        assert_eq!(check(none.clone(), 1, "2026-01-01T00:01:01Z"), of("False", "ProgressDeadlineExceeded", None));
        assert_eq!(check(none, 2, "2026-01-01T00:01:01Z"), of("True", "NewReplicaSetAvailable", None));
        assert_eq!(check(json!({"paused": true}), 1, "2026-01-01T00:00:50Z"), of("Unknown", "DeploymentPaused", None));
    }
}
