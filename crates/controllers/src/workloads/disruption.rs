//! PodDisruptionBudgets: how many of a set of pods may be evicted now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::LabelSelector;
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::toolkit::conditions::NewCondition;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_of_version;
use crate::toolkit::{Context, Result, conditions, discovery, dynamic, ignore, pods};

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
///
/// A number that must be available is one of the pods that are there; everything else is a part of what their controllers want.
fn plan(spec: &PodDisruptionBudgetSpec, expected: i32, healthy: i32) -> Counts {
    let desired_healthy = match (&spec.min_available, &spec.max_unavailable) {
        (Some(least), _) => pods::scaled(Some(least), expected, true),
        (None, Some(most)) => expected.saturating_sub(pods::scaled(Some(most), expected, true)).max(0),
        (None, None) => expected,
    };
    let allowed = if expected > 0 { healthy.saturating_sub(desired_healthy).max(0) } else { 0 };
    Counts { expected, desired_healthy, current_healthy: healthy, allowed }
}

struct DisruptionController {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

pub fn start(context: Context) {
    let disruption = DisruptionController {
        context: context.clone(),
        budgets: context.informers.of(),
        pods: context.informers.of(),
        deployments: context.informers.of(),
        replica_sets: context.informers.of(),
        stateful_sets: context.informers.of(),
        replication_controllers: context.informers.of(),
    };
    let mut controller = Controller::of(&context, &disruption.budgets);
    let budgets = disruption.budgets.clone();
    controller.watch(&disruption.pods, move |change| {
        let pod = change.object();
        let all = budgets.list_in(&pod.namespace().unwrap_or_default());
        all.iter().filter(|budget| selects(budget, pod)).map(|budget| budget.key()).collect::<Vec<_>>()
    });
    controller.needs(&disruption.deployments);
    controller.needs(&disruption.replica_sets);
    controller.needs(&disruption.stateful_sets);
    controller.needs(&disruption.replication_controllers);
    controller.run("disruption", 2, disruption);
}

/// An empty selector selects all pods of the namespace, none selects none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    LabelSelector::from_json(&json!(selector)).is_ok_and(|s| s.matches_map(Some(pod.labels())))
}

/// What is wrong with the pods that a budget selects.
type Wrong = String;

/// Whether a budget counts the pods that are there, and not what their controllers want.
fn counts_pods(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_none() && matches!(spec.min_available, Some(IntOrString::Int(_)))
}

/// Status and reason of the condition `DisruptionAllowed`.
fn disruption_allowed(failed: bool, allowed: i32) -> (&'static str, &'static str) {
    match (failed, allowed > 0) {
        (true, _) => ("False", "SyncFailed"),
        (false, true) => ("True", "SufficientPods"),
        (false, false) => ("False", "InsufficientPods"),
    }
}

impl Reconcile for DisruptionController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(budget) = self.budgets.get(key) else { return Ok(None) };
        let Some(spec) = &budget.spec else { return Ok(None) };
        let now = apimachinery::clock::now();
        let all: Vec<Arc<Pod>> =
            self.pods.list_in(&key.namespace).into_iter().filter(|p| selects(&budget, p)).collect();
        let mine: Vec<&Arc<Pod>> = all.iter().filter(|p| pods::is_active(p)).collect();
        let mut status = budget.status.clone().unwrap_or_default();
        // Evictions that were granted and are not seen yet.
        let mut granted = status.disrupted_pods.take().unwrap_or_default();
        granted.retain(|name, at| now.duration_since(at.0) < GRANT && mine.iter().any(|p| p.name_any() == *name));
        let healthy = mine.iter().filter(|p| pods::is_ready(p) && !granted.contains_key(&p.name_any())).count();
        let expected = if counts_pods(spec) {
            Ok(i32::try_from(all.len()).unwrap_or(i32::MAX))
        } else {
            self.expected(&all).await?
        };
        if all.is_empty() {
            self.context.events.normal(budget.as_ref(), "NoPods", "No matching pods found");
        }
        let unmanaged = all.iter().any(|p| pods::controller_of(&p.metadata).is_none());
        if unmanaged && !counts_pods(spec) {
            let text = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            self.context.events.warning(budget.as_ref(), "UnmanagedPods", text);
        }
        // Without a count no eviction is allowed.
        let (expected, wrong) = match expected {
            Ok(expected) => (expected, None),
            Err(wrong) => {
                let text = format!("Failed to calculate the number of expected pods: {wrong}");
                self.context.events.warning(budget.as_ref(), "CalculateExpectedPodCountFailed", text);
                (status.expected_pods.unwrap_or(0), Some(wrong))
            }
        };
        let mut counts = plan(spec, expected, i32::try_from(healthy).unwrap_or(i32::MAX));
        if wrong.is_some() {
            counts.allowed = 0;
        }
        let again = granted.values().map(|at| GRANT - now.duration_since(at.0)).min();
        status.disrupted_pods = Some(granted).filter(|g| !g.is_empty());
        status.expected_pods = Some(counts.expected);
        status.desired_healthy = Some(counts.desired_healthy);
        status.current_healthy = Some(counts.current_healthy);
        status.disruptions_allowed = Some(counts.allowed);
        status.observed_generation = budget.metadata.generation;
        let (text, reason) = disruption_allowed(wrong.is_some(), counts.allowed);
        let message = wrong.unwrap_or_default();
        let condition = NewCondition {
            generation: budget.metadata.generation,
            ..NewCondition::new("DisruptionAllowed", text, reason, &message)
        };
        conditions::set(status.conditions.get_or_insert_default(), condition, now);
        // A conflict means that an eviction came between: its change brings us here again.
        let written = patch_status_of_version(&self.context, budget.as_ref(), budget.status.as_ref(), &status).await;
        ignore(written, &[409])?;
        Ok(again.and_then(|d| Duration::try_from(d).ok()))
    }
}

impl DisruptionController {
    /// How many pods a controller wants, and the uid of the one that says so: that of the Deployment, for a ReplicaSet of one.
    fn known_scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let key = Key::new(namespace, &owner.name);
        let is_it = |uid: Option<String>| uid.as_ref() == Some(&owner.uid);
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(&key).filter(|set| is_it(set.uid()))?;
                let above =
                    pods::controller_of(&set.metadata).filter(|o| o.kind == "Deployment" && o.api_version == "apps/v1");
                let Some(above) = above else { return Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1))) };
                let deployment = self.deployments.get(&Key::new(namespace, &above.name));
                let deployment = deployment.filter(|d| d.uid().as_ref() == Some(&above.uid))?;
                Some((above.uid.clone(), deployment.spec.replicas.unwrap_or(1)))
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(&key).filter(|set| is_it(set.uid()))?;
                Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            ("v1", "ReplicationController") => {
                let controller = self.replication_controllers.get(&key).filter(|c| is_it(c.uid()))?;
                Some((owner.uid.clone(), controller.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// The same of any kind that has a `scale`.
    async fn asked_scale(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>> {
        let Some(served) = discovery::served(&self.context.client, &owner.api_version, &owner.kind).await? else {
            return Ok(None);
        };
        let Some(root) = discovery::root(&owner.api_version).filter(|_| served.namespaced) else { return Ok(None) };
        let path = format!("{root}/namespaces/{namespace}/{}/{}/scale", served.plural, discovery::segment(&owner.name));
        match dynamic::request(&self.context.client, "GET", &path, &Value::Null).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
            Ok(scale) if scale["metadata"]["uid"] != owner.uid.as_str() => Ok(None),
            Ok(scale) => {
                let replicas = scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
                Ok(Some((owner.uid.clone(), replicas)))
            }
        }
    }

    /// How many pods the controllers of these pods want together. Pods without a controller don't count, as no object
    /// says how many of them there should be.
    async fn expected(&self, mine: &[Arc<Pod>]) -> Result<std::result::Result<i32, Wrong>> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for pod in mine {
            let Some(owner) = pods::controller_of(&pod.metadata).filter(|o| seen.insert(&o.uid)) else { continue };
            let namespace = pod.namespace().unwrap_or_default();
            let found = match self.known_scale(&namespace, owner) {
                None => self.asked_scale(&namespace, owner).await?,
                found => found,
            };
            let Some((uid, replicas)) = found else {
                return Ok(Err(format!("found no controllers for pod {:?}", pod.name_any())));
            };
            wanted.insert(uid, replicas);
        }
        Ok(Ok(wanted.values().fold(0, |sum: i32, n| sum.saturating_add(*n))))
    }
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
