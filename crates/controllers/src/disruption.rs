//! PodDisruptionBudgets: how many of a set of pods may be evicted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::LabelSelector;
use informer::{Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::{Context, Result, pods};

/// An eviction that was granted counts as long, should the pod not go.
const GRANT: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    expected: i32,
    desired_healthy: i32,
    current_healthy: i32,
    allowed: i32,
}

/// `expected` is how many pods there should be, `healthy` how many are well and not already granted an eviction.
fn plan(spec: &PodDisruptionBudgetSpec, expected: i32, healthy: i32) -> Counts {
    let desired_healthy = match (&spec.min_available, &spec.max_unavailable) {
        (Some(least), _) => pods::scaled(Some(least), expected, true),
        (None, Some(most)) => (expected - pods::scaled(Some(most), expected, true)).max(0),
        (None, None) => expected,
    };
    let allowed = if expected > 0 { (healthy - desired_healthy).max(0) } else { 0 };
    Counts { expected, desired_healthy, current_healthy: healthy, allowed }
}

#[derive(Clone)]
struct Caches {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
}

pub fn start(context: Context) {
    let caches = Caches {
        budgets: context.informers.of(),
        pods: context.informers.of(),
        replica_sets: context.informers.of(),
        stateful_sets: context.informers.of(),
    };
    let queue = Queue::default();
    let add = queue.clone();
    caches.budgets.on_change(move |change| add.add(change.object().key()));
    let (add, budgets) = (queue.clone(), caches.budgets.clone());
    caches.pods.on_change(move |change| {
        let pod = change.object();
        for budget in budgets.list_in(&pod.namespace().unwrap_or_default()) {
            if selects(&budget, pod) {
                add.add(budget.key());
            }
        }
    });
    queue.work("disruption", 2, move |key| {
        let (context, caches) = (context.clone(), caches.clone());
        async move {
            informer::synced!(caches.budgets, caches.pods, caches.replica_sets, caches.stateful_sets);
            reconcile(&context, &caches, &key).await
        }
    });
}

/// An empty selector selects all pods of the namespace, none selects none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    LabelSelector::from_json(&json!(selector)).is_ok_and(|s| s.matches_map(Some(pod.labels())))
}

/// How many pods the controllers of these pods want; a pod without one stands for itself.
fn expected(caches: &Caches, mine: &[Arc<Pod>]) -> i32 {
    let mut by_owner: BTreeMap<String, i32> = BTreeMap::new();
    for pod in mine {
        let owner = pods::controller_of(&pod.metadata);
        let key = |name: &str| Key::new(&pod.namespace().unwrap_or_default(), name);
        let wanted = owner.and_then(|o| match o.kind.as_str() {
            "ReplicaSet" => caches.replica_sets.get(&key(&o.name)).map(|s| s.spec.replicas.unwrap_or(1)),
            "StatefulSet" => caches.stateful_sets.get(&key(&o.name)).map(|s| s.spec.replicas.unwrap_or(1)),
            _ => None,
        });
        match (owner, wanted) {
            (Some(owner), Some(wanted)) => {
                by_owner.insert(owner.uid.clone(), wanted);
            }
            _ => {
                by_owner.insert(pod.uid().unwrap_or_default(), 1);
            }
        }
    }
    by_owner.values().sum()
}

async fn reconcile(context: &Context, caches: &Caches, key: &Key) -> Result<Option<Duration>> {
    let Some(budget) = caches.budgets.get(key) else { return Ok(None) };
    let Some(spec) = &budget.spec else { return Ok(None) };
    let now = apimachinery::clock::now();
    let mine: Vec<Arc<Pod>> =
        caches.pods.list_in(&key.namespace).into_iter().filter(|p| selects(&budget, p) && pods::is_active(p)).collect();
    let mut status = budget.status.clone().unwrap_or_default();
    // Evictions that were granted and are not seen yet.
    let mut granted = status.disrupted_pods.take().unwrap_or_default();
    granted.retain(|name, at| now.duration_since(at.0) < GRANT && mine.iter().any(|p| p.name_any() == *name));
    let healthy = mine.iter().filter(|p| pods::is_ready(p) && !granted.contains_key(&p.name_any())).count();
    let counts = plan(spec, expected(caches, &mine), healthy as i32);
    let again = granted.values().map(|at| GRANT - now.duration_since(at.0)).min();
    status.disrupted_pods = Some(granted).filter(|g| !g.is_empty());
    status.expected_pods = Some(counts.expected);
    status.desired_healthy = Some(counts.desired_healthy);
    status.current_healthy = Some(counts.current_healthy);
    status.disruptions_allowed = Some(counts.allowed);
    status.observed_generation = budget.metadata.generation;
    let allowed = counts.allowed > 0;
    let (text, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = status.conditions.get_or_insert_default();
    let present = conditions.iter().position(|c| c.type_ == "DisruptionAllowed");
    if present.is_none_or(|i| conditions[i].status != text) {
        conditions.retain(|c| c.type_ != "DisruptionAllowed");
        conditions.push(k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
            type_: "DisruptionAllowed".into(),
            status: text.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(now),
            observed_generation: budget.metadata.generation,
        });
    }
    if budget.status.as_ref() != Some(&status) {
        let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &key.namespace);
        let new = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
        // A conflict means that an eviction came between: its change brings us here again.
        crate::ignore(api.replace_status(&key.name, &PostParams::default(), &new).await, &[404, 409])?;
    }
    Ok(again.and_then(|d| Duration::try_from(d).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value, (expected, healthy): (i32, i32), desired: i32, allowed: i32) {
        let counts = plan(&serde_json::from_value(spec.clone()).unwrap(), expected, healthy);
        assert_eq!((counts.desired_healthy, counts.allowed), (desired, allowed), "{spec}");
    }

    #[test]
    fn budgets_count_in_numbers_and_parts() {
        check(json!({"minAvailable": 2}), (3, 3), 2, 1);
        check(json!({"minAvailable": 2}), (3, 2), 2, 0);
        check(json!({"minAvailable": "50%"}), (5, 5), 3, 2);
        check(json!({"maxUnavailable": 1}), (3, 3), 2, 1);
        check(json!({"maxUnavailable": "50%"}), (3, 3), 1, 2);
        check(json!({"maxUnavailable": 0}), (3, 3), 3, 0);
        check(json!({"minAvailable": 0}), (0, 0), 0, 0);
    }
}
