//! DaemonSets: one pod on every node that is fit for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::failures::Failures;
use crate::toolkit::{Context, Result, adoption, ignore, pods};
use crate::workloads::revisions;

/// A daemon pod as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Daemon {
    /// Index into the pods that were given.
    index: usize,
    updated: bool,
    ready: bool,
    available: bool,
    deleting: bool,
    failed: bool,
    born: Timestamp,
}

/// A node, whether it should have a daemon, and those that it has.
#[derive(Debug, Clone, Default)]
struct Place {
    node: String,
    /// A new daemon may be put here.
    runs: bool,
    /// One that is here may stay.
    keeps: bool,
    daemons: Vec<Daemon>,
}

#[derive(Debug, Clone, Copy)]
struct Update {
    rolling: bool,
    max_unavailable: usize,
    max_surge: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    create: Vec<String>,
    delete: Vec<usize>,
}

/// The next steps: first that every node has what it should, then as much of an update as is allowed.
fn plan(places: &[Place], update: Update) -> Plan {
    let mut plan = Plan::default();
    for place in places {
        let live: Vec<&Daemon> = place.daemons.iter().filter(|d| !d.deleting).collect();
        plan.delete.extend(live.iter().filter(|d| d.failed || !place.keeps).map(|d| d.index));
        let mut well: Vec<&&Daemon> = live.iter().filter(|d| !d.failed && place.keeps).collect();
        if well.is_empty() {
            // One that is on its way out must be gone before its successor comes, unless surge allows both. One that failed, too: the next may
            // fail like it, and it isn't deleted at once.
            let leaving = place.daemons.iter().any(|d| d.deleting);
            let failed = live.iter().any(|d| d.failed);
            if place.runs && !failed && (!leaving || update.max_surge > 0) {
                plan.create.push(place.node.clone());
            }
            continue;
        }
        // Of several of one version the oldest stays.
        well.sort_by_key(|d| d.born);
        for version in [true, false] {
            plan.delete.extend(well.iter().filter(|d| d.updated == version).skip(1).map(|d| d.index));
        }
    }
    if !update.rolling {
        return plan;
    }
    let touched: HashSet<usize> = plan.delete.iter().copied().collect();
    let fresh = |d: &&Daemon| !d.deleting && !d.failed && !touched.contains(&d.index);
    let wanted: Vec<&Place> = places.iter().filter(|p| p.runs).collect();
    if update.max_surge == 0 {
        let unavailable = wanted.iter().filter(|p| !p.daemons.iter().any(|d| fresh(&d) && d.available)).count();
        let mut budget = update.max_unavailable.saturating_sub(unavailable);
        for place in &wanted {
            for old in place.daemons.iter().filter(|d| fresh(d) && !d.updated) {
                if !old.available {
                    plan.delete.push(old.index);
                } else if budget > 0 {
                    plan.delete.push(old.index);
                    budget -= 1;
                }
            }
        }
        return plan;
    }
    let surging = wanted
        .iter()
        .filter(|p| {
            p.daemons.iter().any(|d| fresh(&d) && d.updated) && p.daemons.iter().any(|d| fresh(&d) && !d.updated)
        })
        .count();
    let mut budget = update.max_surge.saturating_sub(surging);
    for place in &wanted {
        let new = place.daemons.iter().find(|d| fresh(d) && d.updated);
        let Some(old) = place.daemons.iter().find(|d| fresh(d) && !d.updated) else { continue };
        match new {
            Some(new) if new.available => plan.delete.push(old.index),
            Some(_) => {}
            None if !old.available => plan.delete.push(old.index),
            None if budget > 0 => {
                plan.create.push(place.node.clone());
                budget -= 1;
            }
            None => {}
        }
    }
    plan
}

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
    let (sets, all_pods, queue) = pods::follow::<DaemonSet>(&context);
    let failures = Failures::default();
    let nodes = context.informers.of::<Node>();
    let (add, every) = (queue.clone(), sets.clone());
    nodes.on_change(move |change| {
        // Heartbeats change no decision.
        let matters = match change {
            informer::Change::Applied { old: Some(old), new } => {
                old.labels() != new.labels()
                    || old.spec.as_ref().map(|s| &s.taints) != new.spec.as_ref().map(|s| &s.taints)
            }
            _ => true,
        };
        if matters {
            every.list().iter().for_each(|set| add.add(set.key()));
        }
    });
    queue.work("daemonset", 2, move |key| {
        let (context, sets, all_pods, nodes) = (context.clone(), sets.clone(), all_pods.clone(), nodes.clone());
        let failures = failures.clone();
        async move {
            informer::synced!(sets, all_pods, nodes);
            reconcile(&context, &failures, &sets, &all_pods, &nodes, &key).await
        }
    });
}

async fn reconcile(
    context: &Context,
    failures: &Failures,
    sets: &Informer<DaemonSet>,
    cache: &Informer<Pod>,
    nodes: &Informer<Node>,
    key: &Key,
) -> Result<Option<Duration>> {
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
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let max_surge = pods::scaled(rolling.max_surge.as_ref(), wanted, true).max(0) as usize;
    let max_unavailable = pods::scaled(rolling.max_unavailable.as_ref(), wanted, true).max(0) as usize;
    let update = Update {
        rolling: strategy.type_.as_deref() != Some("OnDelete"),
        max_unavailable: if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable },
        max_surge,
    };
    let plan = plan(&places, update);
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
        if pods::phase(pod) == "Failed" {
            let (of, on) = (pod.key(), node_of(pod).unwrap_or_default());
            let text = format!("Found failed daemon pod {of} on node {on}, will try to kill it");
            context.events.warning(set.as_ref(), "FailedDaemonPod", text);
        }
        pods::delete_told(context, cache, set.as_ref(), &mine[index]).await?;
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
    let count = |of: &dyn Fn(&Place) -> bool| places.iter().filter(|p| of(p)).count();
    let desired = count(&|p| p.runs);
    let available = count(&|p| p.runs && live(p).iter().any(|d| d.available));
    let status = json!({
        "currentNumberScheduled": count(&|p| p.runs && !live(p).is_empty()),
        "numberMisscheduled": count(&|p| !p.runs && !live(p).is_empty()),
        "desiredNumberScheduled": desired, "numberReady": count(&|p| p.runs && live(p).iter().any(|d| d.ready)), "numberAvailable": available,
        "numberUnavailable": desired - available,
        "updatedNumberScheduled": count(&|p| p.runs && live(p).iter().any(|d| d.updated)),
        "observedGeneration": set.metadata.generation,
    });
    let present = serde_json::to_value(&set.status).unwrap_or(Value::Null);
    let same =
        status.as_object().into_iter().flatten().all(|(k, v)| present[k] == *v || (present[k].is_null() && *v == 0));
    // These are required, so that even a set without pods has them.
    if same && !present["desiredNumberScheduled"].is_null() && !present["observedGeneration"].is_null() {
        return Ok(());
    }
    let api: Api<DaemonSet> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "status": status }));
    ignore(api.patch_status(&set.name_any(), &PatchParams::default(), &patch).await, &[404])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `node: runs|keeps|unfit, then a word for each daemon`: new, old, with `!` unavailable, `-` deleting, `x` failed.
    fn places(text: &str) -> Vec<Place> {
        let mut index = 0;
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let daemons = words[2..]
                .iter()
                .map(|w| {
                    index += 1;
                    Daemon {
                        index: index - 1,
                        updated: w.starts_with("new"),
                        ready: !w.contains(['!', '-', 'x']),
                        available: !w.contains(['!', '-', 'x']),
                        deleting: w.contains('-'),
                        failed: w.contains('x'),
                        born: Timestamp::from_second(index as i64).unwrap(),
                    }
                })
                .collect();
            Place { node: words[0].into(), runs: words[1] == "runs", keeps: words[1] != "unfit", daemons }
        };
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(line).collect()
    }

    fn check(text: &str, (max_unavailable, max_surge): (usize, usize), create: &[&str], delete: &[usize]) {
        let plan = plan(&places(text), Update { rolling: true, max_unavailable, max_surge });
        assert_eq!(
            (plan.create, plan.delete),
            (create.iter().map(|s| (*s).to_string()).collect(), delete.to_vec()),
            "{text}"
        );
    }

    #[test]
    fn every_fit_node_gets_one_and_no_other_keeps_one() {
        check("a runs\n b runs new\n c unfit new\n d keeps new\n e keeps", (1, 0), &["a"], &[1]);
        check("a runs new new", (1, 0), &[], &[1]);
        check("a runs newx", (1, 0), &[], &[0]);
        check("a runs new-", (1, 0), &[], &[]);
    }

    #[test]
    fn updates_keep_to_what_may_be_unavailable() {
        check("a runs old\n b runs old\n c runs old", (1, 0), &[], &[0]);
        check("a runs new!\n b runs old\n c runs old", (1, 0), &[], &[]);
        check("a runs new\n b runs old!\n c runs old", (1, 0), &[], &[1]);
        check("a runs old\n b runs old\n c runs old", (2, 0), &[], &[0, 1]);
    }

    #[test]
    fn surge_brings_the_new_one_before_the_old_one_goes() {
        check("a runs old\n b runs old", (0, 1), &["a"], &[]);
        check("a runs old new!\n b runs old", (0, 1), &[], &[]);
        check("a runs old new\n b runs old", (0, 1), &[], &[0]);
    }

    #[test]
    fn daemons_are_tied_to_their_node_and_found_there() {
        let mut spec = PodSpec::default();
        tie(&mut spec, "n7");
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert_eq!(node_of(&pod).as_deref(), Some("n7"));
    }

    /// A daemon and the place that it is at.
    #[derive(Debug, Clone, Copy)]
    struct Real {
        place: usize,
        updated: bool,
        available: bool,
        deleting: bool,
        failed: bool,
        born: i64,
    }

    fn seen(nodes: &[bool], daemons: &[Real]) -> Vec<Place> {
        let place = |(i, fit): (usize, &bool)| Place {
            node: format!("n{i}"),
            runs: *fit,
            keeps: *fit,
            daemons: daemons
                .iter()
                .enumerate()
                .filter(|(_, d)| d.place == i)
                .map(|(index, d)| Daemon {
                    index,
                    updated: d.updated,
                    ready: d.available,
                    available: d.available && !d.deleting,
                    deleting: d.deleting,
                    failed: d.failed,
                    born: Timestamp::from_second(d.born).unwrap(),
                })
                .collect(),
        };
        nodes.iter().enumerate().map(place).collect()
    }

    proptest! {
        /// Whatever daemons do, no more nodes are without one for the update's sake than may be, and all end with one new one.
        #[test]
        fn updates_keep_their_promises_and_end(
            nodes in prop::collection::vec(any::<bool>(), 1..6), max_unavailable in 0..4usize, max_surge in 0..3usize,
            luck in prop::collection::vec((0..12usize, 0..4u8), 150),
        ) {
            let max_unavailable = if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable };
            let update = Update { rolling: true, max_unavailable, max_surge };
            let old = |place| Real { place, updated: false, available: true, deleting: false, failed: false, born: 0 };
            let mut daemons: Vec<Real> = (0..nodes.len()).map(old).collect();
            let luck = luck.into_iter().chain((0..60).flat_map(|_| (0..12).flat_map(|i| [(i, 0), (i, 2)])));
            let served = |daemons: &[Real]| {
                (0..nodes.len()).filter(|n| nodes[*n] && daemons.iter().any(|d| d.place == *n && d.available && !d.deleting)).count()
            };
            let wanted = nodes.iter().filter(|n| **n).count();
            for (born, (which, event)) in luck.enumerate() {
                let before = served(&daemons);
                let plan = plan(&seen(&nodes, &daemons), update);
                for index in &plan.delete {
                    prop_assert!(!daemons[*index].deleting);
                    daemons[*index].deleting = true;
                }
                let after = served(&daemons);
                let least = if max_surge == 0 { wanted.saturating_sub(max_unavailable) } else { wanted };
                prop_assert!(after >= least.min(before), "{} of {} served: {:?}", after, wanted, daemons);
                for node in plan.create {
                    let place = node[1..].parse::<usize>().unwrap();
                    prop_assert!(nodes[place]);
                    daemons.push(Real { place, updated: true, available: false, deleting: false, failed: false, born: born as i64 });
                }
                for place in 0..nodes.len() {
                    let live = daemons.iter().filter(|d| d.place == place && !d.deleting).count();
                    prop_assert!(live <= 1 + usize::from(max_surge > 0), "{} on one node", live);
                }
                if let Some(daemon) = daemons.get_mut(which) {
                    match event {
                        0 if !daemon.failed && !daemon.deleting => daemon.available = true,
                        1 if !daemon.deleting => (daemon.available, daemon.failed) = (false, true),
                        2 if daemon.deleting => {
                            daemons.remove(which);
                        }
                        _ => {}
                    }
                }
            }
            prop_assert_eq!(daemons.len(), wanted);
            prop_assert!(daemons.iter().all(|d| d.updated && d.available && !d.deleting), "{:?}", daemons);
        }
    }
}
