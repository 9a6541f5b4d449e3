//! A Deployment's status, as a pure function of its sets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::plan::{fences, narrow};
use crate::toolkit::conditions;
use crate::toolkit::conditions::{Condition as _, NewCondition};

pub struct Facts<'a> {
    pub new: Option<&'a ReplicaSet>,
    pub old: &'a [Arc<ReplicaSet>],
    /// Why the new set couldn't be made.
    pub failure: Option<&'a kube::Error>,
    pub now: Timestamp,
}

/// "No deadline" in the API.
const NEVER: i32 = i32::MAX;
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

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
pub fn compute(deployment: &Deployment, facts: &Facts<'_>) -> (DeploymentStatus, Option<Duration>) {
    let spec = &deployment.spec;
    let wanted = spec.replicas.unwrap_or(1);
    let sum = |of: fn(&ReplicaSetStatus) -> i32| total(facts.new, facts.old, of);
    let (replicas, available) = (sum(|s| s.replicas), sum(|s| s.available_replicas.unwrap_or(0)));
    let updated = facts.new.map_or(0, |s| count(s, |s| s.replicas));
    let ready = sum(|s| s.ready_replicas.unwrap_or(0));
    let recreates = spec.strategy.as_ref().is_some_and(|s| s.type_.as_deref() == Some("Recreate"));
    let may_be_down = if recreates || wanted == 0 { 0 } else { fences(spec).1.min(wanted) };
    let is_available = available >= wanted.saturating_sub(may_be_down);
    let before = deployment.status.clone().unwrap_or_default();
    let mut list = before.conditions.clone().unwrap_or_default();
    let available_condition = if is_available {
        let text = "Deployment has minimum availability.";
        NewCondition::new("Available", "True", "MinimumReplicasAvailable", text)
    } else {
        let text = "Deployment does not have minimum availability.";
        NewCondition::new("Available", "False", "MinimumReplicasUnavailable", text)
    };
    conditions::set(&mut list, available_condition, facts.now);
    let mut again = None;
    let deadline = spec.progress_deadline_seconds.unwrap_or(NEVER);
    if deadline == NEVER {
        list.retain(|c| c.type_() != PROGRESSING);
    } else {
        again = progress(deployment, facts, &mut list, Counts { replicas, updated, ready, available }, deadline);
    }
    list.retain(|c| c.type_() != REPLICA_FAILURE);
    list.extend(failing_set(facts));
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        unavailable_replicas: Some(asked_for(facts).saturating_sub(available).max(0)),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        conditions: Some(list),
        ..before
    };
    (status, again)
}

/// How many pods the sets are asked for together: those that can't be made yet are missing, too.
fn asked_for(facts: &Facts<'_>) -> i32 {
    let sets = facts.new.into_iter().chain(facts.old.iter().map(AsRef::as_ref));
    narrow(sets.map(|set| i64::from(set.spec.replicas.unwrap_or(0))).sum())
}

/// What a set says of pods that it can't create.
fn failing_set(facts: &Facts<'_>) -> Option<DeploymentCondition> {
    let sets = facts.new.into_iter().chain(facts.old.iter().map(AsRef::as_ref));
    sets.into_iter().find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_deref()?;
        let failure = conditions::find(conditions, REPLICA_FAILURE).filter(|c| c.status() == "True")?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    })
}

/// What is said of a set that couldn't be made.
pub fn refused(deployment: &Deployment, error: &kube::Error) -> String {
    let name = super::sets::new_name(deployment);
    format!("Failed to create new replica set {name:?}: {}", informer::error_message(error))
}

struct Counts {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
}

impl Counts {
    /// Whether a roll-out has made progress since a status was written (upstream's `DeploymentProgressing`).
    fn is_further_than(&self, status: &DeploymentStatus) -> bool {
        let old = |n: Option<i32>| n.unwrap_or(0);
        self.updated > old(status.updated_replicas)
            || self.replicas - self.updated < old(status.replicas) - old(status.updated_replicas)
            || self.ready > old(status.ready_replicas)
            || self.available > old(status.available_replicas)
    }
}

/// Whether a condition is about a ReplicaSet.
fn names(condition: &DeploymentCondition, set: &str) -> bool {
    condition.message.as_ref().is_some_and(|message| message.contains(&format!("{set:?}")))
}

/// The deadline counts from now on, though the condition says the same as before.
fn restart_deadline(list: &mut [DeploymentCondition], now: Timestamp) {
    let condition = list.iter_mut().find(|c| c.type_() == PROGRESSING);
    condition.into_iter().for_each(|c| c.last_update_time = Some(Time(now)));
}

/// Sets the condition `Progressing`; returns how long until the deadline.
fn progress(
    deployment: &Deployment,
    facts: &Facts<'_>,
    list: &mut Vec<DeploymentCondition>,
    counts: Counts,
    deadline: i32,
) -> Option<Duration> {
    let spec = &deployment.spec;
    let present = conditions::find(list, PROGRESSING).cloned();
    let reason = present.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or("");
    let mut say = |status: &str, reason: &str, message: &str| {
        conditions::set(list, NewCondition::new(PROGRESSING, status, reason, message), facts.now);
    };
    if let Some(error) = facts.failure {
        say("False", "ReplicaSetCreateError", &refused(deployment, error));
        return None;
    }
    if spec.paused == Some(true) {
        // That it timed out is still so while it is paused.
        if reason != "ProgressDeadlineExceeded" {
            say("Unknown", "DeploymentPaused", "Deployment is paused");
        }
        return None;
    }
    if reason == "DeploymentPaused" {
        say("Unknown", "DeploymentResumed", "Deployment is resumed");
        return Some(Duration::from_secs(1));
    }
    let new = facts.new?;
    let name = new.name_any();
    if is_complete(spec, new, facts.old) {
        say("True", "NewReplicaSetAvailable", &format!("ReplicaSet {name:?} has successfully progressed."));
        return None;
    }
    let of_another = !present.as_ref().is_some_and(|condition| names(condition, &name));
    // Once complete, pods that come and go, or a new number of them, are no roll-out.
    if reason == "NewReplicaSetAvailable" && counts.replicas == counts.updated && !of_another {
        return None;
    }
    let moved = counts.is_further_than(&deployment.status.clone().unwrap_or_default());
    let allowed = SignedDuration::from_secs(i64::from(deadline));
    let again = Duration::try_from(allowed).unwrap_or_default() + Duration::from_secs(1);
    if of_another && !moved {
        // No pod of it has come yet, nor one of another gone.
        say("True", "NewReplicaSetCreated", &format!("Created new replica set {name:?}"));
        return Some(again);
    }
    if moved {
        say("True", "ReplicaSetUpdated", &format!("ReplicaSet {name:?} is progressing."));
        restart_deadline(list, facts.now);
        return Some(again);
    }
    let since = present.as_ref().and_then(|c| c.last_update_time.as_ref());
    let so_far = since.map_or(SignedDuration::ZERO, |t| facts.now.duration_since(t.0));
    if reason == "ProgressDeadlineExceeded" || so_far > allowed {
        say("False", "ProgressDeadlineExceeded", &format!("ReplicaSet {name:?} has timed out progressing."));
        return None;
    }
    Some(Duration::try_from(allowed - so_far).unwrap_or_default() + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
        let list = status.conditions.unwrap();
        let condition = conditions::find(&list, PROGRESSING).unwrap().clone();
        (condition.status.unwrap(), condition.reason.unwrap(), again.map(|d| d.as_secs()))
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
