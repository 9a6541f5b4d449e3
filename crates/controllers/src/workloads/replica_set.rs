//! ReplicaSets and ReplicationControllers: so many pods of a template, no more and no fewer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Pod};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::toolkit::adoption::Selecting;
use crate::toolkit::conditions::{Condition, NewCondition};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, adoption, conditions, pods};

/// Pods that one round creates at the most.
const BURST: usize = 500;

#[derive(Debug, PartialEq)]
struct Plan {
    create: usize,
    /// Indices into the pods that were given.
    delete: Vec<usize>,
}

/// What leads from `pods` (all of the set, those that end included) to `wanted`. `related` are the pods of all sets of the same controller:
/// of those that share a node with many the first goes (KEP-2185), also while one set takes the place of another.
fn plan(wanted: usize, pods: &[Arc<Pod>], related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Plan {
    let mut active: Vec<usize> = (0..pods.len()).filter(|i| pods::is_active(&pods[*i])).collect();
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = active.len() - wanted;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone());
    let mut together: HashMap<String, usize> = HashMap::new();
    let related = related();
    let neighbours = related.iter().filter(|pod| pods::is_active(pod)).filter_map(|pod| node(pod));
    neighbours.for_each(|node| *together.entry(node).or_default() += 1);
    let beside = |pod: &Pod| node(pod).and_then(|node| together.get(&node).copied()).unwrap_or(0);
    active.sort_by_key(|i| rank(&pods[*i], beside(&pods[*i]), now));
    active.truncate(surplus);
    Plan { create: 0, delete: active }
}

/// The order of magnitude of a time that is over: differences within one don't count (KEP-2185).
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let age = since.map_or(0, |since| now.duration_since(since).as_nanos());
    if age > 0 { i64::from(age.ilog2()) } else { -1 }
}

/// The lower, the sooner a pod is given up (upstream's `ActivePodsWithRanks`): unassigned before assigned, pending before running,
/// unready before ready, cheap before dear, one of many on its node before one of few, ready for a short time before a long one, often
/// restarted before seldom, young before old.
fn rank(pod: &Pod, beside: usize, now: Timestamp) -> impl Ord + use<> {
    use std::cmp::Reverse;
    let assigned = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok());
    let born = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True"));
    let ready_since = ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let statuses =
        status.into_iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]).flatten().flatten();
    let restarts = statuses.map(|c| c.restart_count).max().unwrap_or(0);
    let worth = (assigned, phase, ready.is_some(), cost.unwrap_or(0_i64), Reverse(beside));
    (worth, magnitude(ready_since, now), Reverse(restarts), magnitude(born, now), Reverse(born))
}

/// How many pods there are, and of what sort.
struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

/// What keeps a number of pods of a template.
trait Replicated: Selecting {
    type Status: Serialize + Send + Sync;

    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> Option<&Self::Status>;
    /// The status with these counts, and with why pods can't be created.
    fn next_status(&self, counts: &Counts, failure: Option<&kube::Error>, now: Timestamp) -> Self::Status;
}

impl Replicated for ReplicaSet {
    type Status = ReplicaSetStatus;

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn status(&self) -> Option<&ReplicaSetStatus> {
        self.status.as_ref()
    }

    fn next_status(&self, counts: &Counts, failure: Option<&kube::Error>, now: Timestamp) -> ReplicaSetStatus {
        let before = self.status.clone().unwrap_or_default();
        ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: Some(counts.fully_labeled),
            ready_replicas: Some(counts.ready),
            available_replicas: Some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: with_failure(before.conditions, failure, now),
        }
    }
}

impl Replicated for ReplicationController {
    type Status = ReplicationControllerStatus;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Option<&ReplicationControllerStatus> {
        self.status.as_ref()
    }

    fn next_status(
        &self,
        counts: &Counts,
        failure: Option<&kube::Error>,
        now: Timestamp,
    ) -> ReplicationControllerStatus {
        let before = self.status.clone().unwrap_or_default();
        ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: Some(counts.fully_labeled),
            ready_replicas: Some(counts.ready),
            available_replicas: Some(counts.available),
            observed_generation: self.metadata.generation,
            conditions: with_failure(before.conditions, failure, now),
        }
    }
}

/// Conditions with `ReplicaFailure` as long as pods can't be created. What it says stays meanwhile: each attempt has another name in its
/// message, and would wake the set again.
fn with_failure<C: Condition>(
    conditions: Option<Vec<C>>,
    failure: Option<&kube::Error>,
    now: Timestamp,
) -> Option<Vec<C>> {
    const FAILURE: &str = "ReplicaFailure";
    let mut conditions = conditions.unwrap_or_default();
    match failure {
        Some(error) if conditions::find(&conditions, FAILURE).is_none() => {
            let message = informer::error_message(error);
            conditions::set(&mut conditions, NewCondition::new(FAILURE, "True", "FailedCreate", &message), now);
        }
        Some(_) => {}
        None => conditions.retain(|c| c.type_() != FAILURE),
    }
    Some(conditions).filter(|c| !c.is_empty())
}

pub fn start(context: Context) {
    work::<ReplicaSet>(context, "replicaset");
}

pub fn start_of_replication_controllers(context: Context) {
    work::<ReplicationController>(context, "replicationcontroller");
}

fn work<K: Replicated>(context: Context, name: &'static str) {
    let (sets, pods) = (context.informers.of::<K>(), context.informers.of::<Pod>());
    let mut controller = Controller::of(&context, &sets);
    controller.owns(&sets, &pods);
    controller.run(name, 4, ReplicaSetController { context, sets, pods });
}

struct ReplicaSetController<K> {
    context: Context,
    sets: Informer<K>,
    pods: Informer<Pod>,
}

impl<K: Replicated> Reconcile for ReplicaSetController<K> {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let ReplicaSetController { context, sets, pods: cache } = self;
        let Some(set) = sets.get(key) else { return Ok(None) };
        let Some(uid) = set.uid() else { return Ok(None) };
        let mut failure = None;
        if set.meta().deletion_timestamp.is_none()
            && let Some(template) = set.template()
        {
            adoption::adopt_and_release(context, cache, set.as_ref(), pods::is_active).await?;
            let mine = pods::owned(cache, &key.namespace, &uid);
            let wanted = usize::try_from(set.replicas()).unwrap_or(0);
            let related = || related(sets, cache, set.as_ref(), &mine);
            let plan = plan(wanted, &mine, related, apimachinery::clock::now());
            let mut pod = pods::from_template(template, &key.namespace, pods::owner(set.as_ref()));
            pod.metadata.generate_name = Some(format!("{}-", key.name));
            failure = pods::create_all(context, cache, set.as_ref(), std::iter::repeat_n(pod, plan.create)).await;
            for index in plan.delete {
                pods::delete_and_record(context, cache, set.as_ref(), &mine[index]).await?;
            }
        }
        let mine = pods::owned(cache, &key.namespace, &uid);
        let again = write_status(context, set.as_ref(), &mine, failure.as_ref()).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }
}

/// The pods of all sets that have the same controller as `set`; its own, if it has none.
fn related<K: Replicated>(sets: &Informer<K>, cache: &Informer<Pod>, set: &K, mine: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let Some(above) = pods::controller_of(set.meta()).map(|owner| owner.uid.clone()) else { return mine.to_vec() };
    let namespace = set.namespace().unwrap_or_default();
    let siblings = sets.list_in(&namespace).into_iter().filter(|other| pods::is_owned_by(other.meta(), &above));
    let uids: HashSet<String> = siblings.filter_map(|other| other.uid()).collect();
    let is_related = |pod: &Arc<Pod>| pods::controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid));
    cache.list_in(&namespace).into_iter().filter(is_related).collect()
}

async fn write_status<K: Replicated>(
    context: &Context,
    set: &K,
    mine: &[Arc<Pod>],
    failure: Option<&kube::Error>,
) -> Result<Option<Duration>> {
    let active: Vec<&Arc<Pod>> = mine.iter().filter(|p| pods::is_active(p)).collect();
    let template = set.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let labelled = active.iter().filter(|p| template.iter().all(|(k, v)| p.labels().get(k) == Some(v))).count();
    let now = apimachinery::clock::now();
    let checks: Vec<_> = active.iter().map(|p| pods::is_available(p, set.min_ready_seconds(), now)).collect();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let counts = Counts {
        replicas: number(active.len()),
        fully_labeled: number(labelled),
        ready: number(active.iter().filter(|p| pods::is_ready(p)).count()),
        available: number(checks.iter().filter(|c| c.is_ok()).count()),
        terminating: number(mine.iter().filter(|p| pods::is_deleting(p)).count()),
    };
    patch_status_if_changed(context, set, set.status(), &set.next_status(&counts, failure, now)).await?;
    let soonest = checks.into_iter().filter_map(|c| c.err().flatten()).min();
    Ok(soonest.and_then(|d| Duration::try_from(d).ok()).map(|d| d + Duration::from_millis(100)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(text: &str) -> Arc<Pod> {
        let ready = if text.contains("ready") { "True" } else { "False" };
        let node = if text.contains("unassigned") { Value::Null } else { json!("n") };
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if text.contains("failed") { "Failed" } else { "Running" },
                       "conditions": [{"type": "Ready", "status": ready}]}});
        if text.contains("deleting") {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn of_pods_that_are_alike_those_go_that_are_missed_least() {
        let pod = |name: &str, node: &str, ready: &str, restarts: i32, cost: &str| -> Arc<Pod> {
            let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": ready}]);
            let annotations = json!({"controller.kubernetes.io/pod-deletion-cost": cost});
            let meta = json!({"name": name, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"});
            let status = json!({"phase": "Running", "conditions": conditions, "containerStatuses": [{"name": "c", "restartCount": restarts}]});
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": meta, "spec": {"nodeName": node, "containers": []}, "status": status}),
                )
                .unwrap(),
            )
        };
        let (long, short) = ("2026-01-01T00:00:00Z", "2026-01-01T23:59:00Z");
        let first = |pods: [Arc<Pod>; 2]| pods[plan(1, &pods, || pods.to_vec(), now()).delete[0]].name_any();
        assert_eq!(first([pod("dear", "a", short, 9, "5"), pod("cheap", "b", long, 0, "-5")]), "cheap");
        assert_eq!(first([pod("long", "a", long, 9, "0"), pod("short", "b", short, 0, "0")]), "short");
        assert_eq!(first([pod("seldom", "a", long, 1, "0"), pod("often", "b", long, 2, "0")]), "often");
        // An hour in a day isn't the next order of magnitude.
        assert_eq!(
            first([pod("seldom", "a", "2026-01-01T01:00:00Z", 1, "0"), pod("often", "b", long, 2, "0")]),
            "often"
        );
        let crowd = [pod("alone", "a", short, 9, "0"), pod("one", "b", long, 0, "0"), pod("two", "b", long, 1, "0")];
        assert_eq!(plan(2, &crowd, || crowd.to_vec(), now()).delete, [2], "of those that share a node");
        // With pods of another set of the same Deployment, too.
        let two = [pod("alone", "a", short, 9, "0"), pod("crowded", "b", long, 0, "0")];
        let all = [two.as_slice(), &[pod("other", "b", long, 0, "0")]].concat();
        assert_eq!(plan(1, &two, || all, now()).delete, [1], "of those that share a node with others");
    }

    fn check(wanted: usize, states: &[&str], create: usize, delete: &[usize]) {
        let pods: Vec<_> = states.iter().map(|s| pod(s)).collect();
        assert_eq!(
            plan(wanted, &pods, || pods.clone(), now()),
            Plan { create, delete: delete.to_vec() },
            "{wanted} of {states:?}"
        );
    }

    #[test]
    fn missing_pods_are_created_and_the_least_useful_deleted() {
        check(2, &[], 2, &[]);
        check(2, &["ready", "deleting"], 1, &[]);
        check(2, &["ready", "failed"], 1, &[]);
        check(1, &["ready", "starting"], 0, &[1]);
        check(1, &["ready", "unassigned", "starting"], 0, &[1, 2]);
        check(2, &["ready", "ready"], 0, &[]);
    }
}
