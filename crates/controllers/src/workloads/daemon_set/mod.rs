//! DaemonSets: one pod on every node that is fit for it.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use plan::{Daemon, Place, Update, plan};

use crate::toolkit::controller::{Controller, Reconcile, all_keys};
use crate::toolkit::failures::Failures;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, adoption, pods};
use crate::workloads::revisions;

/// The tolerations that every daemon has: it stays through what drives other pods away.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut list = spec.tolerations.clone().unwrap_or_default();
    let mut all = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        all.push(("network-unavailable", "NoSchedule"));
    }
    for (key, effect) in all {
        let key = Some(format!("node.kubernetes.io/{key}"));
        let effect = Some(effect.to_string());
        if !list.iter().any(|t| t.key == key && t.effect == effect && t.toleration_seconds.is_none()) {
            list.push(Toleration { key, effect, operator: Some("Exists".into()), ..Toleration::default() });
        }
    }
    list
}

/// Whether a node should get a daemon, and whether one that it has may stay.
fn fitness(spec: &PodSpec, tolerations: &[Toleration], node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_ref().is_none_or(|n| *n == node.name_any());
    if !named || !placement::node_affinity_matches(spec.node_selector.as_ref(), spec.affinity.as_ref(), node) {
        return (false, false);
    }
    let taints: &[Taint] = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| taints.iter().any(|t| t.effect == effect && !placement::tolerates(tolerations, t));
    let keeps = !untolerated("NoExecute");
    (keeps && !untolerated("NoSchedule"), keeps)
}

/// Ties a pod to a node the way that the scheduler respects: by the node's name, in place of required terms of its own.
fn tie(spec: &mut PodSpec, node: &str) {
    let name = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let mut affinity = serde_json::to_value(&spec.affinity).unwrap_or(Value::Null);
    affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [{"matchFields": [name]}]});
    spec.affinity = serde_json::from_value(affinity).ok();
}

pub fn start(context: Context) {
    let (sets, pods, nodes) =
        (context.informers.of::<DaemonSet>(), context.informers.of::<Pod>(), context.informers.of::<Node>());
    let mut controller = Controller::of(&context, &sets);
    controller.owns(&sets, &pods);
    let every = sets.clone();
    controller.watch(&nodes, move |change| if affects_daemons(change) { all_keys(&every) } else { Vec::new() });
    controller.run("daemonset", 2, DaemonSetController { context, sets, pods, nodes, failures: Failures::default() });
}

/// Heartbeats of nodes change no decision.
fn affects_daemons(change: &Change<Node>) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone());
    match change {
        Change::Applied { old: Some(old), new } => old.labels() != new.labels() || taints(old) != taints(new),
        _ => true,
    }
}

struct DaemonSetController {
    context: Context,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    failures: Failures,
}

impl Reconcile for DaemonSetController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let DaemonSetController { context, sets, pods: cache, nodes, failures } = self;
        let Some(set) = sets.get(key) else { return Ok(None) };
        let (spec, Some(uid)) = (&set.spec, set.uid()) else { return Ok(None) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let selector = spec.selector.match_labels.as_ref();
        let revision = revisions::ensure(&context.client, set.as_ref(), &spec.template, selector).await?;
        let hash = revision.rsplit('-').next().unwrap_or("").to_string();
        adoption::adopt_and_release(context, cache, set.as_ref(), pods::is_active).await?;
        let mine = pods::owned(cache, &key.namespace, &uid);
        let (places, _) = observe(spec, &mine, &nodes.list(), &hash);
        let wanted = places.iter().filter(|p| p.runs).count() as i32;
        let plan = plan(&places, update(spec, wanted));
        let mut pod = pods::from_template(&spec.template, &key.namespace, pods::owner(set.as_ref()));
        pod.metadata.generate_name = Some(format!("{}-", key.name));
        pod.metadata.labels.get_or_insert_default().insert(revisions::LABEL.into(), hash.clone());
        pod.spec.get_or_insert_default().tolerations = Some(tolerations(&pod.spec.clone().unwrap_or_default()));
        let tied = plan.create.iter().map(|node| {
            let mut pod = pod.clone();
            tie(pod.spec.get_or_insert_default(), node);
            pod
        });
        let failure = pods::create_all(context, cache, set.as_ref(), tied).await;
        let mut postponed: Option<Duration> = None;
        for index in plan.delete {
            let pod = &mine[index];
            let wait = pod.is_over().then(|| failures.wait(key, &node_of(pod).unwrap_or_default())).flatten();
            if let Some(wait) = wait {
                postponed = Some(postponed.map_or(wait, |least| least.min(wait)));
                continue;
            }
            record_over(context, &set, pod);
            pods::delete_and_record(context, cache, set.as_ref(), &mine[index]).await?;
        }
        let mine = pods::owned(cache, &key.namespace, &uid);
        let (places, again) = observe(spec, &mine, &nodes.list(), &hash);
        write_status(context, &set, &places).await?;
        let mut live: HashSet<String> =
            mine.iter().filter_map(|p| p.labels().get(revisions::LABEL)).map(|h| format!("{}-{h}", key.name)).collect();
        live.insert(revision);
        revisions::forget(&context.client, set.as_ref(), spec.revision_history_limit, &live).await?;
        failure.map_or(Ok(again.into_iter().chain(postponed).min()), Err)
    }
}

/// How the pods of a set of `wanted` pods are replaced.
fn update(spec: &DaemonSetSpec, wanted: i32) -> Update {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let max_surge = pods::scaled(rolling.max_surge.as_ref(), wanted, true).max(0) as usize;
    let max_unavailable = pods::scaled(rolling.max_unavailable.as_ref(), wanted, true).max(0) as usize;
    Update {
        rolling: strategy.type_.as_deref() != Some("OnDelete"),
        max_unavailable: if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable },
        max_surge,
    }
}

/// Records that a pod which has ended gives way to another one.
fn record_over(context: &Context, set: &DaemonSet, pod: &Pod) {
    let (of, on) = (pod.key(), node_of(pod).unwrap_or_default());
    match pods::phase(pod) {
        "Failed" => {
            let text = format!("Found failed daemon pod {of} on node {on}, will try to kill it");
            context.events.warning(set, "FailedDaemonPod", text);
        }
        "Succeeded" => {
            let text = format!("Found succeeded daemon pod {of} on node {on}, will try to delete it");
            context.events.normal(set, "SucceededDaemonPod", text);
        }
        _ => {}
    }
}

/// The node that a daemon is on, or is meant for.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = &spec.node_name {
        return Some(node.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields.filter(|f| f.key == "metadata.name").find_map(|f| f.values.as_ref()?.first().cloned())
}

/// All nodes with what they should have and have; and when a daemon becomes available by waiting.
fn observe(spec: &DaemonSetSpec, mine: &[Arc<Pod>], nodes: &[Arc<Node>], hash: &str) -> (Vec<Place>, Option<Duration>) {
    let pod_spec = spec.template.spec.clone().unwrap_or_default();
    let tolerations = tolerations(&pod_spec);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for node in nodes {
        let (runs, keeps) = fitness(&pod_spec, &tolerations, node);
        places.insert(node.name_any(), Place { node: node.name_any(), runs, keeps, daemons: Vec::new() });
    }
    let now = apimachinery::clock::now();
    let mut again = None;
    for (index, pod) in mine.iter().enumerate() {
        let node = node_of(pod).unwrap_or_default();
        let available = pods::is_available(pod, spec.min_ready_seconds.unwrap_or(0), now);
        if let Err(Some(wait)) = available {
            let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(100);
            again = Some(again.map_or(wait, |a: Duration| a.min(wait)));
        }
        let place = places.entry(node.clone()).or_insert_with(|| Place { node, ..Place::default() });
        place.daemons.push(Daemon {
            index,
            updated: pod.labels().get(revisions::LABEL).map(String::as_str) == Some(hash),
            ready: pods::is_ready(pod) && !pods::is_deleting(pod),
            available: available.is_ok() && !pods::is_deleting(pod),
            deleting: pods::is_deleting(pod),
            failed: pod.is_over(),
            born: pod.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0),
        });
    }
    (places.into_values().collect(), again)
}

async fn write_status(context: &Context, set: &DaemonSet, places: &[Place]) -> Result {
    let live = |p: &Place| p.daemons.iter().filter(|d| !d.deleting && !d.failed).copied().collect::<Vec<_>>();
    let count =
        |of: &dyn Fn(&Place) -> bool| i32::try_from(places.iter().filter(|p| of(p)).count()).unwrap_or(i32::MAX);
    let desired = count(&|p| p.runs);
    let available = count(&|p| p.runs && live(p).iter().any(|d| d.available));
    let status = DaemonSetStatus {
        current_number_scheduled: count(&|p| p.runs && !live(p).is_empty()),
        number_misscheduled: count(&|p| !p.runs && !live(p).is_empty()),
        desired_number_scheduled: desired,
        number_ready: count(&|p| p.runs && live(p).iter().any(|d| d.ready)),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        updated_number_scheduled: Some(count(&|p| p.runs && live(p).iter().any(|d| d.updated))),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    };
    patch_status_if_changed(context, set, set.status.as_ref(), &status).await.map(|_| ())
}
