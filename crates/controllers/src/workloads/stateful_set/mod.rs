//! StatefulSets: pods with names, volumes and an order.

mod claims;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use informer::{Change, Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Volume};
use kube::ResourceExt as _;

use plan::{Action, Replica, Shape, plan};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::failures::Failures;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, adoption, pods};
use crate::workloads::revisions;
use crate::workloads::revisions::LABEL as REVISION;

pub fn start(context: Context) {
    let (sets, pods) = (context.informers.of::<StatefulSet>(), context.informers.of::<Pod>());
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let mut controller = Controller::of(&context, &sets);
    controller.owns(&sets, &pods);
    let owners = sets.clone();
    controller.watch(&claims, move |change| sets_without(&owners, change));
    controller.run(
        "statefulset",
        4,
        StatefulSetController { context, sets, pods, claims, failures: Failures::default() },
    );
}

/// The sets of a claim that was deleted: it is made anew, and a pod may wait for that.
fn sets_without(sets: &Informer<StatefulSet>, change: &Change<PersistentVolumeClaim>) -> Vec<Key> {
    let Change::Deleted(claim) = change else { return Vec::new() };
    let name = claim.name_any();
    let is_of = |set: &&Arc<StatefulSet>| {
        let templates = set.spec.volume_claim_templates.iter().flatten();
        let mut pods = templates.filter_map(|t| name.strip_prefix(&t.name_any())?.strip_prefix('-'));
        pods.any(|pod| ordinal(&set.name_any(), pod).is_some())
    };
    let all = sets.list_in(&claim.namespace().unwrap_or_default());
    all.iter().filter(is_of).map(|set| set.key()).collect()
}

struct StatefulSetController {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    failures: Failures,
}

fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

impl Reconcile for StatefulSetController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(set) = self.sets.get(key) else { return Ok(None) };
        let (spec, Some(uid)) = (&set.spec, set.uid()) else { return Ok(None) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let newest = self.revision(&set, spec).await?;
        let current = set.status.as_ref().and_then(|s| s.current_revision.clone()).unwrap_or_else(|| newest.clone());
        let named = |pod: &Pod| ordinal(&key.name, &pod.name_any()).is_some();
        adoption::adopt_and_release(&self.context, &self.pods, set.as_ref(), named).await?;
        let mine = pods::owned(&self.pods, &key.namespace, &uid);
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
        self.update_owners(&set, shape, &mine).await?;
        // A claim may have been deleted after its pod was created and before the pod was scheduled.
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
                        pods::delete(&self.context.client, &self.pods, pod).await?;
                        let text = format!("delete Pod {name} in StatefulSet {} successful", key.name);
                        self.context.events.normal(set.as_ref(), "SuccessfulDelete", text);
                    }
                }
            }
        }
        self.write_status(&set, spec, &pods::owned(&self.pods, &key.namespace, &uid), &newest, &current).await?;
        Ok(again)
    }
}

impl StatefulSetController {
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
        match pods::create(&self.context.client, &self.pods, &pod).await {
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
        let is_current =
            |p: &&Arc<Pod>| !pods::is_deleting(p) && p.labels().get(REVISION).map(String::as_str) == Some(current);
        let on_current = mine.iter().filter(is_current).count();
        // The roll-out is over when all are new and well; where nothing rolls out, it never is.
        let rolls = spec.update_strategy.as_ref().is_none_or(|s| s.type_.as_deref() != Some("OnDelete"));
        let done = rolls && replicas.len() as i32 == wanted && replicas.iter().all(|r| r.updated && r.available);
        let current = if done { newest } else { current };
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let ready = mine.iter().filter(|p| pods::is_ready(p) && !pods::is_deleting(p)).count();
        let status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: number(mine.len()),
            ready_replicas: Some(number(ready)),
            available_replicas: Some(number(replicas.iter().filter(|r| r.available).count())),
            current_replicas: Some(number(if done { updated } else { on_current })),
            updated_replicas: Some(number(updated)),
            current_revision: Some(current.into()),
            update_revision: Some(newest.into()),
            collision_count: Some(0),
            ..set.status.clone().unwrap_or_default()
        };
        patch_status_if_changed(&self.context, set, set.status.as_ref(), &status).await?;
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
