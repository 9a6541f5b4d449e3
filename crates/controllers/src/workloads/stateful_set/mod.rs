//! StatefulSets: pods with names, volumes and an order.

mod claims;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Volume};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::toolkit::failures::Failures;
use crate::toolkit::{Context, Result, adoption, ignore, pods};
use crate::workloads::revisions;
use crate::workloads::revisions::LABEL as REVISION;

/// A pod as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Replica {
    ordinal: i32,
    /// Failed or succeeded: to be made anew.
    over: bool,
    deleting: bool,
    /// Running, ready, and that for long enough.
    available: bool,
    /// Of the newest template.
    updated: bool,
    /// It can't run: it never began, or a container of it ends again and again.
    stuck: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create(i32),
    Delete(i32),
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    start: i32,
    replicas: i32,
    parallel: bool,
    /// Ordinals from here on are brought to the newest template; none with OnDelete.
    partition: Option<i32>,
    /// Pods that may be down for an update at a time.
    max_unavailable: i32,
}

/// Pods that one round creates at the most; what comes of them brings the set here again.
const BURST: usize = 500;

impl Shape {
    fn range(self) -> std::ops::Range<i32> {
        self.start..self.start.saturating_add(self.replicas.max(0))
    }
}

/// The next steps. In order means: one at a time, each after all before it are available.
fn plan(shape: Shape, replicas: &[Replica]) -> Vec<Action> {
    let range = shape.range();
    let by_ordinal: BTreeMap<i32, &Replica> = replicas.iter().map(|r| (r.ordinal, r)).collect();
    let mut actions = Vec::new();
    // What was just renewed must be well before more is touched.
    let present = || by_ordinal.range(range.clone()).map(|(_, r)| *r);
    let renewed = present().filter(|r| r.deleting || (r.updated && !r.available));
    let budget = usize::try_from(shape.max_unavailable).unwrap_or(1).saturating_sub(renewed.count());
    let is_outdated = |r: &Replica| {
        !r.updated
            && !r.deleting
            && shape.partition.is_some_and(|partition| r.ordinal >= shape.start.saturating_add(partition))
    };
    for ordinal in range.clone() {
        let blocked = match by_ordinal.get(&ordinal) {
            None => {
                actions.push(Action::Create(ordinal));
                true
            }
            Some(r) if r.deleting => true,
            Some(r) if r.over => {
                actions.push(Action::Delete(ordinal));
                true
            }
            // An old version that can't run holds nothing up that would mend it. (Upstream waits for people here.) One that runs and isn't
            // ready may be at work on its data: it is waited for, as upstream does.
            Some(r) if r.stuck && !r.available && is_outdated(r) && budget > 0 && !shape.parallel => {
                actions.push(Action::Delete(ordinal));
                true
            }
            Some(r) => !r.available,
        };
        if (blocked && !shape.parallel) || actions.len() >= BURST {
            return actions;
        }
    }
    // What is too much goes from the highest number down, when all that should be is well. In order, one that isn't well goes only if none
    // before it is unwell: those may need it to get well. What has ended won't.
    let too_many = || replicas.iter().filter(|r| !range.contains(&r.ordinal));
    let first_unwell = too_many().find(|r| !r.available && !r.over).map(|r| r.ordinal);
    for r in too_many().rev() {
        let may_go = shape.parallel || r.available || r.over || first_unwell == Some(r.ordinal);
        if !r.deleting && may_go {
            actions.push(Action::Delete(r.ordinal));
        }
        if !shape.parallel {
            return actions;
        }
    }
    if !actions.is_empty() {
        return actions;
    }
    let up = present().filter(|r| !r.deleting && r.available).count();
    let down = range.len().saturating_sub(up);
    let mut spare = usize::try_from(shape.max_unavailable).unwrap_or(1).saturating_sub(down);
    let outdated: Vec<&Replica> = present().rev().filter(|r| is_outdated(r)).collect();
    // What is old and unwell is missed by nobody.
    let chosen = outdated.into_iter().filter(|r| {
        let free = !r.available || spare > 0;
        spare = if r.available { spare.saturating_sub(1) } else { spare };
        free
    });
    actions.extend(chosen.take(budget).map(|r| Action::Delete(r.ordinal)));
    actions
}

pub fn start(context: Context) {
    let (sets, all_pods, queue) = pods::follow::<StatefulSet>(&context);
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let (add, owners) = (queue.clone(), sets.clone());
    claims.on_change(move |change| {
        // A claim that is gone is made anew, and a pod may wait for that.
        let informer::Change::Deleted(claim) = change else { return };
        let name = claim.name_any();
        for set in owners.list_in(&claim.namespace().unwrap_or_default()) {
            let templates = set.spec.volume_claim_templates.iter().flatten();
            let mut pods = templates.filter_map(|t| name.strip_prefix(&t.name_any())?.strip_prefix('-'));
            if pods.any(|pod| ordinal(&set.name_any(), pod).is_some()) {
                add.add(set.key());
            }
        }
    });
    let failures = Failures::default();
    queue.work("statefulset", 4, move |key| {
        let failures = failures.clone();
        let (context, sets, all_pods, claims) = (context.clone(), sets.clone(), all_pods.clone(), claims.clone());
        async move {
            informer::synced!(sets, all_pods, claims);
            Work { context: &context, pods: &all_pods, claims: &claims, failures: &failures }
                .reconcile(&sets, &key)
                .await
        }
    });
}

struct Work<'a> {
    context: &'a Context,
    pods: &'a Informer<Pod>,
    claims: &'a Informer<PersistentVolumeClaim>,
    failures: &'a Failures,
}

fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

impl Work<'_> {
    async fn reconcile(&self, sets: &Informer<StatefulSet>, key: &Key) -> Result<Option<Duration>> {
        let Some(set) = sets.get(key) else { return Ok(None) };
        let (spec, Some(uid)) = (&set.spec, set.uid()) else { return Ok(None) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let newest = self.revision(&set, spec).await?;
        let current = set.status.as_ref().and_then(|s| s.current_revision.clone()).unwrap_or_else(|| newest.clone());
        let named = |pod: &Pod| ordinal(&key.name, &pod.name_any()).is_some();
        adoption::adopt_and_release(self.context, self.pods, set.as_ref(), named).await?;
        let mine = pods::owned(self.pods, &key.namespace, &uid);
        let (replicas, mut again) = observe(&key.name, spec, &mine, &newest);
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let partition = rolling.partition.unwrap_or(0);
        let wanted = spec.replicas.unwrap_or(1);
        let shape = Shape {
            max_unavailable: match &rolling.max_unavailable {
                None => 1,
                share => pods::scaled(share.as_ref(), wanted, true).max(1),
            },
            start: spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0),
            replicas: wanted,
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            partition: (strategy.type_.as_deref() != Some("OnDelete")).then_some(partition),
        };
        // Before pods go, as theirs may go with them.
        self.keep_owners(&set, shape, &mine).await?;
        // Somebody may have deleted a claim after its pod was made, and before that was given a node.
        for pod in mine.iter().filter(|p| pods::phase(p) == "Pending" && !pods::is_deleting(p)) {
            self.ensure_claims(&set, spec, &pod.name_any()).await?;
        }
        for action in plan(shape, &replicas) {
            match action {
                Action::Create(ordinal) => {
                    // Below the partition the version that was stays.
                    let old = ordinal < shape.start.saturating_add(partition) && current != newest;
                    let revision = if old { &current } else { &newest };
                    self.create(&set, spec, ordinal, revision, old).await?;
                }
                Action::Delete(ordinal) => {
                    let name = format!("{}-{ordinal}", key.name);
                    if let Some(pod) = mine.iter().find(|p| p.name_any() == name) {
                        if let Some(wait) = pod.is_over().then(|| self.failures.wait(key, &name)).flatten() {
                            again = Some(again.map_or(wait, |least| least.min(wait)));
                            continue;
                        }
                        pods::delete(&self.context.client, self.pods, pod).await?;
                        let text = format!("delete Pod {name} in StatefulSet {} successful", key.name);
                        self.context.events.normal(set.as_ref(), "SuccessfulDelete", text);
                    }
                }
            }
        }
        self.write_status(&set, spec, &pods::owned(self.pods, &key.namespace, &uid), &newest, &current).await?;
        Ok(again)
    }

    /// The name of the revision that holds the present template; made if it is new.
    async fn revision(&self, set: &StatefulSet, spec: &StatefulSetSpec) -> Result<String> {
        let name = format!("{}-{}", set.name_any(), pods::content_hash(&spec.template));
        if set.status.as_ref().and_then(|s| s.update_revision.as_ref()) == Some(&name) {
            return Ok(name);
        }
        revisions::ensure(&self.context.client, set, &spec.template, spec.selector.match_labels.as_ref()).await
    }

    async fn create(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        ordinal: i32,
        revision: &str,
        old: bool,
    ) -> Result {
        let namespace = set.namespace().unwrap_or_default();
        let name = format!("{}-{ordinal}", set.name_any());
        let mut template = spec.template.clone();
        if old {
            let stored = revisions::template(&self.context.client, &namespace, revision).await?;
            template = stored.unwrap_or(template);
        }
        let mut pod = pods::from_template(&template, &namespace, pods::owner(set));
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
        labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
        labels.insert(REVISION.into(), revision.into());
        let pod_spec = pod.spec.get_or_insert_default();
        pod_spec.hostname = Some(name.clone());
        pod_spec.subdomain = spec.service_name.clone().filter(|s| !s.is_empty());
        if let Some(going) = self.ensure_claims(set, spec, &name).await? {
            // Once it is gone the set is looked at again.
            let text = format!(
                "create Pod {name} in StatefulSet {} failed error: pvc {going} is being deleted",
                set.name_any()
            );
            self.context.events.warning(set, "FailedCreate", text);
            return Ok(());
        }
        for claim in spec.volume_claim_templates.iter().flatten() {
            let volume = claim.name_any();
            let claim_name = format!("{volume}-{name}");
            let volumes = pod_spec.volumes.get_or_insert_default();
            volumes.retain(|v| v.name != volume);
            let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
            volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
        }
        match pods::create(&self.context.client, self.pods, &pod).await {
            Ok(_) => {
                let text = format!("create Pod {name} in StatefulSet {} successful", set.name_any());
                self.context.events.normal(set, "SuccessfulCreate", text);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => {
                let text = format!(
                    "create Pod {name} in StatefulSet {} failed error: {}",
                    set.name_any(),
                    informer::error_message(&error)
                );
                self.context.events.warning(set, "FailedCreate", text);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        mine: &[Arc<Pod>],
        newest: &str,
        current: &str,
    ) -> Result {
        let (replicas, _) = observe(&set.name_any(), spec, mine, newest);
        let wanted = spec.replicas.unwrap_or(1);
        let updated = replicas.iter().filter(|r| r.updated && !r.deleting).count();
        let on_current = mine.iter().filter(|p| p.labels().get(REVISION).map(String::as_str) == Some(current)).count();
        // The roll-out is over when all are new and well.
        let done = replicas.len() as i32 == wanted && replicas.iter().all(|r| r.updated && r.available);
        let current = if done { newest } else { current };
        let status = json!({
            "observedGeneration": set.metadata.generation, "replicas": mine.len(),
            "readyReplicas": mine.iter().filter(|p| pods::is_ready(p) && !pods::is_deleting(p)).count(),
            "availableReplicas": replicas.iter().filter(|r| r.available).count(),
            "currentReplicas": if done { updated } else { on_current }, "updatedReplicas": updated,
            "currentRevision": current, "updateRevision": newest, "collisionCount": 0,
        });
        let present = serde_json::to_value(&set.status).unwrap_or(Value::Null);
        let same = status.as_object().into_iter().flatten().all(|(k, v)| present[k] == *v);
        if !same {
            let api: Api<StatefulSet> =
                Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
            let patch = Patch::Merge(json!({ "status": status }));
            ignore(api.patch_status(&set.name_any(), &PatchParams::default(), &patch).await, &[404])?;
        }
        let before = set.status.as_ref().and_then(|s| s.update_revision.as_deref());
        if before.is_none_or(|b| b == newest || b == current) {
            return Ok(());
        }
        let mut live: HashSet<String> = mine.iter().filter_map(|p| p.labels().get(REVISION).cloned()).collect();
        live.extend([newest.to_string(), current.to_string()]);
        revisions::forget(&self.context.client, set, spec.revision_history_limit, &live).await
    }
}

/// The pods as the plan sees them, and when one of them becomes available by waiting.
fn observe(name: &str, spec: &StatefulSetSpec, mine: &[Arc<Pod>], newest: &str) -> (Vec<Replica>, Option<Duration>) {
    let now = apimachinery::clock::now();
    let mut again = None;
    let mut replicas: Vec<Replica> = mine
        .iter()
        .filter_map(|pod| {
            let available = pods::is_available(pod, spec.min_ready_seconds.unwrap_or(0), now);
            if let Err(Some(wait)) = available {
                let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(100);
                again = Some(again.map_or(wait, |a: Duration| a.min(wait)));
            }
            Some(Replica {
                ordinal: ordinal(name, &pod.name_any())?,
                over: pod.is_over(),
                deleting: pods::is_deleting(pod),
                available: available.is_ok() && !pods::is_deleting(pod),
                updated: pod.labels().get(REVISION).map(String::as_str) == Some(newest),
                stuck: is_stuck(pod),
            })
        })
        .collect();
    replicas.sort_by_key(|r| r.ordinal);
    (replicas, again)
}

fn is_stuck(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends_again = statuses
        .into_iter()
        .any(|status| status.restart_count > 0 && status.state.as_ref().is_none_or(|state| state.running.is_none()));
    pods::phase(pod) == "Pending" || ends_again
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One letter a pod: `a`vailable, `s`tarting, `d`eleting, `f`ailed, `o`ld but available, `u`nready and old,
    /// `b`roken and old, `-` missing.
    fn check(replicas: i32, parallel: bool, partition: i32, pods: &str, want: &str) {
        let all: Vec<Replica> = pods
            .chars()
            .enumerate()
            .filter(|(_, c)| *c != '-')
            .map(|(i, c)| Replica {
                ordinal: i as i32,
                over: c == 'f',
                deleting: c == 'd',
                available: matches!(c, 'a' | 'o'),
                updated: !matches!(c, 'o' | 'b' | 'u'),
                stuck: c == 'b',
            })
            .collect();
        let shape = Shape { start: 0, replicas, parallel, partition: Some(partition), max_unavailable: 1 };
        let got = plan(shape, &all).into_iter().map(|a| match a {
            Action::Create(n) => format!("+{n}"),
            Action::Delete(n) => format!("-{n}"),
        });
        assert_eq!(got.collect::<Vec<_>>().join(" "), want, "{replicas} of {pods:?}");
    }

    #[test]
    fn pods_are_made_and_removed_in_order() {
        check(2, false, 0, "", "+0");
        check(2, false, 0, "s", "");
        check(2, false, 0, "a", "+1");
        check(2, false, 0, "-a", "+0");
        check(2, false, 0, "da", "");
        check(2, false, 0, "fa", "-0");
        check(1, false, 0, "aaa", "-2");
        check(1, false, 0, "aad", "");
        check(0, false, 0, "sss", "");
        check(0, false, 0, "ass", "");
        check(0, false, 0, "aas", "-2");
        check(0, false, 0, "s", "-0");
        check(0, false, 0, "sa", "-1");
        check(0, false, 0, "ff", "-1");
        check(0, false, 0, "fs", "-1");
        check(1, false, 0, "saa", "");
        check(3, true, 0, "-s-", "+0 +2");
        check(0, true, 0, "aa", "-1 -0");
    }

    #[test]
    fn roll_out_goes_from_the_highest_number_down_to_the_partition() {
        check(3, false, 0, "ooo", "-2");
        check(3, false, 0, "ood", "");
        check(3, false, 0, "oos", "");
        check(3, false, 0, "ooa", "-1");
        check(3, false, 2, "ooa", "");
        check(3, false, 0, "oob", "-2");
        check(3, false, 0, "b", "-0");
        // Whoever runs and isn't ready is waited for.
        check(3, false, 0, "ouo", "");
        check(3, false, 0, "uoo", "");
        check(3, false, 0, "ooua", "");
        check(3, true, 0, "ouo", "-1");
        check(3, false, 0, "obs", "");
        check(3, false, 2, "obo", "");
        check(3, false, 2, "ooo", "-2");
        let old =
            |ordinal| Replica { ordinal, over: false, deleting: false, available: true, updated: false, stuck: false };
        let shape = Shape { start: 0, replicas: 4, parallel: true, partition: Some(1), max_unavailable: 2 };
        let pods: Vec<Replica> = (0..4).map(old).collect();
        assert_eq!(plan(shape, &pods), [Action::Delete(3), Action::Delete(2)]);
        let mut some: Vec<Replica> = pods;
        some[3].deleting = true;
        assert_eq!(plan(shape, &some), [Action::Delete(2)]);
    }

    proptest! {
        /// From any start, with pods that get well or fail as they please, nothing is made twice, no more is down for the
        /// update than may be, order is kept, and all ends as it should be.
        #[test]
        fn updates_keep_their_promises_and_end(
            replicas in 0..6i32, parallel: bool, max_unavailable in 1..4i32, start in prop::collection::vec(0..5u8, 0..8),
            luck in prop::collection::vec((0..6i32, 0..4u8), 200),
        ) {
            let replica = |ordinal: usize, c: &u8| Replica {
                ordinal: ordinal as i32, over: *c == 1, deleting: *c == 2, available: *c >= 3, updated: *c == 4, stuck: *c == 0,
            };
            let mut pods: BTreeMap<i32, Replica> =
                start.iter().enumerate().map(|(i, c)| (i as i32, replica(i, c))).collect();
            let shape = Shape { start: 0, replicas, parallel, partition: Some(0), max_unavailable };
            let luck = luck.into_iter().chain((0..60).flat_map(|_| (0..8).flat_map(|o| [(o, 0), (o, 2)])));
            for (ordinal, event) in luck {
                let now: Vec<Replica> = pods.values().copied().collect();
                let up = |pods: &BTreeMap<i32, Replica>| (0..replicas).filter(|o| pods.get(o).is_some_and(|r| r.available && !r.deleting)).count() as i32;
                let before = up(&pods);
                let actions = plan(shape, &now);
                prop_assert!(parallel || actions.len() <= usize::try_from(max_unavailable).unwrap(), "{:?} of {:?}", actions, now);
                for action in actions {
                    match action {
                        Action::Create(n) => {
                            prop_assert!(n < replicas && !pods.contains_key(&n), "{} of {:?}", n, now);
                            prop_assert!(parallel || (0..n).all(|o| now.iter().any(|r| r.ordinal == o && r.available)), "{:?}", now);
                            pods.insert(n, Replica { ordinal: n, over: false, deleting: false, available: false, updated: true, stuck: false });
                        }
                        Action::Delete(n) => {
                            let pod = pods.get_mut(&n).unwrap();
                            prop_assert!(!pod.deleting);
                            (pod.deleting, pod.available) = (true, false);
                        }
                    }
                }
                let after = up(&pods);
                prop_assert!(after >= (replicas - max_unavailable).min(before), "{} up, {} before: {:?}", after, before, now);
                match event {
                    // It gets well, unless it is over or leaves.
                    0 => pods.values_mut().filter(|r| r.ordinal == ordinal && !r.over && !r.deleting).for_each(|r| r.available = true),
                    1 => pods.values_mut().filter(|r| r.ordinal == ordinal && !r.deleting).for_each(|r| r.available = false),
                    2 => pods.retain(|_, r| r.ordinal != ordinal || !r.deleting),
                    _ => {}
                }
            }
            prop_assert_eq!(pods.len() as i32, replicas);
            prop_assert!(pods.values().all(|r| r.updated && r.available && !r.deleting), "{:?}", pods);
        }
    }

    #[test]
    fn a_pod_is_stuck_when_it_can_not_run() {
        let stuck = |status: Value| is_stuck(&serde_json::from_value(json!({"status": status})).unwrap());
        let container = |restarts: i32, state: Value| {
            json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"running": {}}}, {"name": "b", "restartCount": restarts, "state": state}]})
        };
        assert!(stuck(json!({"phase": "Pending"})));
        assert!(stuck(container(3, json!({"waiting": {"reason": "CrashLoopBackOff"}}))));
        assert!(stuck(container(1, json!({"terminated": {"exitCode": 1}}))));
        assert!(!stuck(container(3, json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}))));
        assert!(!stuck(container(0, json!({"running": {}}))));
    }
}
