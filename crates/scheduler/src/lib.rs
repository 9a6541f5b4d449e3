//! The scheduler (upstream's kube-scheduler).
//!
//! [`plan`] is pure: from a pod and a snapshot of nodes and their pods to the best node, or to the reasons why none fits; so is
//! [`preemption`], which selects victims for a pod of higher priority. [`start`] keeps the snapshot up to date, takes pods from a queue, and
//! binds in the background; a pod is assumed on its node from the moment of the decision.

pub mod filters;
mod node_predicates;
pub mod plan;
pub mod pod;
pub mod preemption;
pub mod profile;
pub mod resources;
mod score;
pub mod snapshot;
mod topology;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::LabelSelector;
use informer::{Change, Informers, Key, Keyed as _, Pod, Queue, Recorder};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Taint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;

use filters::{PodVolumes, WaitingClaim};
use plan::Outcome;
use pod::PodInfo;
use preemption::{DisruptionBudgets, Preemption};
use profile::{Profile, Profiles};
use resources::ResourceList;
use snapshot::Snapshot;

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Reserved pods, by key, each with the name of its node.
type Reservations = HashMap<Key, (Arc<PodInfo>, String)>;

#[derive(Clone)]
struct Scheduler {
    client: Client,
    profiles: Arc<HashMap<String, (Profile, Recorder)>>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// Pods that are reserved on a node while their volumes are provisioned there (upstream's Reserve phase): other pods are scheduled with
    /// regard to them.
    reserved: Arc<Mutex<Reservations>>,
    pods: informer::Informer<Pod>,
    claims: informer::Informer<PersistentVolumeClaim>,
    volumes: informer::Informer<PersistentVolume>,
    classes: informer::Informer<StorageClass>,
    drivers: informer::Informer<CSINode>,
    driver_kinds: informer::Informer<CSIDriver>,
    capacities: informer::Informer<CSIStorageCapacity>,
    budgets: informer::Informer<PodDisruptionBudget>,
}

/// Starts the scheduler. It ends with the process.
pub fn start(profiles: &Profiles, informers: &Informers) {
    let client = informers.client().clone();
    let told_by = |profile: &Profile| (profile.clone(), Recorder::new(client.clone(), profile.name.clone(), ""));
    let profiles = profiles.names().filter_map(|name| Some((name.clone(), told_by(profiles.get(name)?))));
    let scheduler = Scheduler {
        profiles: Arc::new(profiles.collect()),
        client: client.clone(),
        snapshot: Arc::default(),
        reserved: Arc::default(),
        pods: informers.of(),
        claims: informers.of(),
        volumes: informers.of(),
        classes: informers.of(),
        drivers: informers.of(),
        driver_kinds: informers.of(),
        capacities: informers.of(),
        budgets: informers.of(),
    };
    let nodes = informers.of::<Node>();
    let queue = Queue::of(&scheduler.pods, Recorder::new(client.clone(), profile::DEFAULT_SCHEDULER_NAME, ""));
    // Unschedulable pods wait for a change that may make them schedulable.
    let waiting: Arc<Mutex<HashSet<Key>>> = Arc::default();
    let (snapshot, again, parked) = (scheduler.snapshot.clone(), queue.clone(), waiting.clone());
    let wake = move || parked.lock().drain().for_each(|key| again.add(key));
    let retry = wake.clone();
    nodes.on_change(move |change| {
        match change {
            Change::Applied { old, new } => {
                snapshot.lock().put_node(new.clone());
                if old.as_ref().is_some_and(|old| !is_schedulable_after_node_change(old, new)) {
                    return;
                }
            }
            Change::Deleted(old) => snapshot.lock().remove_node(&old.name_any()),
        }
        retry();
    });
    let (snapshot, retry) = (scheduler.snapshot.clone(), wake.clone());
    informers.of::<Namespace>().on_change(move |change| {
        let namespace = change.object();
        match change {
            Change::Applied { new, .. } => {
                snapshot.lock().namespaces.insert(new.name_any(), new.labels().clone());
            }
            Change::Deleted(_) => {
                snapshot.lock().namespaces.remove(&namespace.name_any());
            }
        }
        retry();
    });
    let (snapshot, add, retry) = (scheduler.snapshot.clone(), queue.clone(), wake.clone());
    let (profiles, reserved) = (scheduler.profiles.clone(), scheduler.reserved.clone());
    scheduler.pods.on_change(move |change| {
        let pod = change.object();
        let over = pod.is_over();
        let assigned = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if matches!(change, Change::Deleted(_)) || over {
            snapshot.lock().remove_pod(&pod.key());
            reserved.lock().remove(&pod.key());
            if assigned {
                retry();
            }
        } else if assigned {
            snapshot.lock().put_pod(pod.clone());
        } else if pod.metadata.deletion_timestamp.is_none() && is_ours(pod, &profiles) {
            // Higher priority first.
            let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            add.add_with_priority(pod.key(), -priority);
        }
    });
    let retry = wake.clone();
    scheduler.claims.on_change(move |_| retry());
    let retry = wake.clone();
    scheduler.volumes.on_change(move |_| retry());
    let retry = wake.clone();
    scheduler.classes.on_change(move |_| retry());
    let retry = wake.clone();
    scheduler.capacities.on_change(move |_| retry());
    scheduler.drivers.on_change(move |_| wake());
    queue.work("scheduler", 1, move |key| {
        let (scheduler, waiting, nodes) = (scheduler.clone(), waiting.clone(), nodes.clone());
        async move {
            informer::synced!(
                nodes,
                scheduler.budgets,
                scheduler.pods,
                scheduler.claims,
                scheduler.volumes,
                scheduler.classes,
                scheduler.drivers,
                scheduler.driver_kinds,
                scheduler.capacities
            );
            // Parked before it is scheduled, so that a change meanwhile isn't missed.
            waiting.lock().insert(key.clone());
            let (settled, again) = scheduler.schedule(&key).await?;
            if settled {
                waiting.lock().remove(&key);
            }
            Ok::<_, kube::Error>(again)
        }
    });
}

/// Whether a change of a node may make pods schedulable there (upstream's queueing hints); heartbeats don't.
fn is_schedulable_after_node_change(old: &Node, new: &Node) -> bool {
    fn of(node: &Node) -> (Option<&ResourceList>, Option<&Vec<Taint>>, Option<bool>) {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let closed = spec.and_then(|s| s.unschedulable);
        (status.and_then(|s| s.allocatable.as_ref()), spec.and_then(|s| s.taints.as_ref()), closed)
    }
    old.labels() != new.labels() || of(old) != of(new)
}

/// Why a pod can't be scheduled because of its volumes.
enum VolumeError {
    /// A claim is being bound: only its status is still to be written.
    Binding,
    Unschedulable(String),
}

fn scheduler_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(profile::DEFAULT_SCHEDULER_NAME)
}

fn is_ours(pod: &Pod, profiles: &HashMap<String, (Profile, Recorder)>) -> bool {
    let spec = pod.spec.as_ref();
    profiles.contains_key(scheduler_name(pod))
        && spec.and_then(|s| s.scheduling_gates.as_ref()).is_none_or(Vec::is_empty)
}

/// Ignores 404: the pod was deleted meanwhile.
fn ignore_not_found(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

impl DisruptionBudgets for Scheduler {
    fn of(&self, pod: &PodInfo) -> Vec<(String, i32)> {
        // As upstream's preemption has it: a budget without requirements is about no pod here, and one that has granted a pod's eviction already
        // isn't asked again.
        let selects = |budget: &PodDisruptionBudget| {
            let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref())?;
            LabelSelector::from_json(&serde_json::to_value(selector).ok()?).ok().filter(|selector| !selector.is_empty())
        };
        let has_granted = |budget: &PodDisruptionBudget| {
            let granted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            granted.is_some_and(|pods| pods.contains_key(&pod.pod.name_any()))
        };
        let of_namespace = self.budgets.list_in(&pod.group_key.namespace).into_iter();
        of_namespace
            .filter(|b| selects(b).is_some_and(|s| s.matches_map(Some(&pod.group_key.labels))) && !has_granted(b))
            .map(|b| (b.name_any(), b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0)))
            .collect()
    }
}

impl Scheduler {
    /// The event recorder of the pod's profile.
    fn recorder_for(&self, pod: &Pod) -> Recorder {
        let found = self.profiles.get(scheduler_name(pod));
        found.map_or_else(
            || Recorder::new(self.client.clone(), profile::DEFAULT_SCHEDULER_NAME, ""),
            |(_, recorder)| recorder.clone(),
        )
    }

    /// Reserves a pod on a node while its volumes are provisioned there.
    fn reserve(&self, key: &Key, pod: Arc<PodInfo>, node: String) {
        self.snapshot.lock().assume(key.clone(), pod.clone(), &node);
        self.reserved.lock().insert(key.clone(), (pod, node));
    }

    /// Removes a pod's reservation (upstream's Unreserve).
    fn unreserve(&self, key: &Key) -> Option<(Arc<PodInfo>, String)> {
        let reserved = self.reserved.lock().remove(key)?;
        let is_assigned = self.pods.get(key).is_some_and(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
        if !is_assigned {
            self.snapshot.lock().remove_pod(key);
        }
        Some(reserved)
    }

    /// Schedules a pod. Returns whether it needn't wait for changes any more, and after which time it is retried.
    async fn schedule(&self, key: &Key) -> Result<(bool, Option<Duration>), kube::Error> {
        let reserved = self.unreserve(key);
        let Some(pod) = self.pods.get(key) else { return Ok((true, None)) };
        let assigned = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if assigned || pod.metadata.deletion_timestamp.is_some() || self.snapshot.lock().has_pod(key) {
            return Ok((true, None));
        }
        let volumes = match self.pod_volumes(&pod) {
            Ok(mut volumes) => {
                volumes.in_use = !volumes.exclusive.is_empty() && {
                    let snapshot = self.snapshot.lock();
                    snapshot
                        .nodes()
                        .any(|node| node.pods.values().any(|other| filters::uses(other, &volumes.exclusive)))
                };
                volumes.at_attach_limit = self.nodes_at_attach_limit(&volumes.of_drivers);
                volumes
            }
            Err(VolumeError::Binding) => {
                if let Some((info, node)) = reserved {
                    self.reserve(key, info, node);
                }
                return Ok((false, Some(Duration::from_secs(5))));
            }
            Err(VolumeError::Unschedulable(reason)) => {
                let reason = plan::unresolvable_message(self.snapshot.lock().known(), &reason);
                self.record_unschedulable(&pod, &reason).await?;
                return Ok((false, Some(Duration::from_secs(30))));
            }
        };
        let info = Arc::new(PodInfo::read(pod.clone()));
        let Some((profile, _)) = self.profiles.get(scheduler_name(&pod)) else { return Ok((true, None)) };
        let outcome = plan::schedule_pod(key, &info, &mut self.snapshot.lock(), &volumes, profile);
        let node = match outcome {
            Outcome::Node(node) => node,
            Outcome::Unschedulable(fit_error) => {
                let mut reason = fit_error.message();
                let found = preemption::find_candidate(&info, &self.snapshot.lock(), &volumes, &fit_error, self);
                match found {
                    Ok(preemption) => self.preempt(key, &info, &preemption).await?,
                    Err(why) if fit_error.rejections.is_empty() => tracing::debug!(%why, "no node fits the pod"),
                    Err(why) => reason = format!("{reason} preemption: {why}"),
                }
                self.record_unschedulable(&pod, &reason).await?;
                // Normally a change retries the pod; this is for changes that no event announces.
                return Ok((false, Some(Duration::from_secs(30))));
            }
        };
        if !volumes.waiting.is_empty() {
            // The volumes are provisioned on the chosen node first; the pod is retried when they are bound.
            self.reserve(key, info, node.clone());
            for claim in volumes.waiting.iter().map(|claim| &claim.name) {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                api.patch(claim, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            return Ok((false, Some(Duration::from_secs(10))));
        }
        self.snapshot.lock().assume(key.clone(), info, &node);
        let this = self.clone();
        tasks::spawn("binding", async move {
            if let Err(error) = this.bind(&pod, &node).await {
                tracing::debug!(pod = %pod.key(), %error, "failed to bind a pod");
                this.snapshot.lock().remove_pod(&pod.key());
            }
        });
        // If the binding fails, the pod is retried.
        Ok((true, Some(Duration::from_secs(5))))
    }

    /// Evicts the victims, and nominates the pod on their node.
    async fn preempt(&self, key: &Key, info: &Arc<PodInfo>, found: &Preemption) -> Result<(), kube::Error> {
        self.snapshot.lock().nominate(key.clone(), info.clone(), &found.node);
        for victim in &found.victims {
            let Some(pod) = self.pods.get(victim) else { continue };
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
            let message = format!("{}: preempting to accommodate a higher priority pod", scheduler_name(&info.pod));
            let patch = Patch::Strategic(
                json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler", "message": message, "lastTransitionTime": apimachinery::clock::now_rfc3339()}]}}),
            );
            let marked = api.patch_status(&victim.name, &PatchParams::default(), &patch).await.map(|_| ());
            ignore_not_found(marked)?;
            ignore_not_found(api.delete(&victim.name, &DeleteParams::default()).await.map(|_| ()))?;
            self.recorder_for(&info.pod).normal(
                &*pod,
                "Preempted",
                format!("Preempted by pod {} on node {}", info.pod.uid().unwrap_or_default(), found.node),
            );
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Strategic(json!({"status": {"nominatedNodeName": found.node}}));
        ignore_not_found(api.patch_status(&key.name, &PatchParams::default(), &patch).await.map(|_| ()))
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name_any(), "namespace": pod.namespace(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let _: serde_json::Value =
            api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await?;
        let text =
            format!("Successfully assigned {}/{} to {node}", pod.namespace().unwrap_or_default(), pod.name_any());
        self.recorder_for(pod).normal(pod, "Scheduled", text);
        Ok(())
    }

    async fn record_unschedulable(&self, pod: &Pod, reason: &str) -> Result<(), kube::Error> {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let told = conditions.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
        if told.is_some_and(|c| c.message.as_deref() == Some(reason)) {
            return Ok(());
        }
        self.recorder_for(pod).warning(pod, "FailedScheduling", reason);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Strategic(json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": reason, "lastTransitionTime": apimachinery::clock::now_rfc3339()}]}}));
        ignore_not_found(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(|_| ()))
    }

    /// The attachable volume of a claim: driver and volume handle, or the claim while its volume isn't provisioned.
    fn attachable_volume(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        let spec = claim.spec.as_ref()?;
        let Some(name) = &spec.volume_name else {
            let class = self.classes.get(&Key::new("", spec.storage_class_name.as_deref()?))?;
            return Some((class.provisioner.clone(), claim.key().to_string()));
        };
        let volume = self.volumes.get(&Key::new("", name))?;
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    }

    /// The nodes where these volumes exceed a driver's limit of attachable volumes (`CSINode.spec.drivers[].allocatable`).
    fn nodes_at_attach_limit(&self, wanted: &BTreeSet<(String, String)>) -> HashSet<String> {
        let mut nodes_at_attach_limit = HashSet::new();
        if wanted.is_empty() {
            return nodes_at_attach_limit;
        }
        let snapshot = self.snapshot.lock();
        for node in self.drivers.list() {
            let limits = node.spec.drivers.iter().filter_map(|d| Some((&d.name, d.allocatable.as_ref()?.count?)));
            let mut limits = limits.filter(|(driver, _)| wanted.iter().any(|(of, _)| of == *driver)).peekable();
            let Some(state) = snapshot.node_by_name(&node.name_any()).filter(|_| limits.peek().is_some()) else {
                continue;
            };
            let claims = state.pods.values().flat_map(|pod| {
                let claims = informer::claims(&pod.pod).into_iter();
                claims.filter_map(|c| self.claims.get(&Key::new(&pod.group_key.namespace, &c.name)))
            });
            let all: BTreeSet<_> =
                claims.filter_map(|c| self.attachable_volume(&c)).chain(wanted.iter().cloned()).collect();
            let is_full = |(driver, most): (&String, i32)| {
                all.iter().filter(|(of, _)| of == driver).count() as i64 > i64::from(most)
            };
            if limits.any(is_full) {
                nodes_at_attach_limit.insert(state.name.clone());
            }
        }
        nodes_at_attach_limit
    }

    /// A claim that waits for its pod's node, with the volumes that would do.
    fn waiting_claim(&self, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> WaitingClaim {
        let mut found: Vec<_> = self.volumes.list().into_iter().filter(|v| placement::volume_fits(claim, v)).collect();
        found.sort_by_cached_key(|volume| placement::volume_rank(volume));
        let place = |volume: &PersistentVolume| volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone();
        WaitingClaim {
            name: claim.name_any(),
            candidates: found.iter().map(|volume| (volume.name_any(), place(volume))).collect(),
            has_provisioner: class.is_some_and(|class| class.provisioner != NO_PROVISIONER),
            topologies: class.and_then(|class| class.allowed_topologies.clone()).unwrap_or_default(),
            roomy: class.and_then(|class| self.roomy(claim, class)),
        }
    }

    /// Where a driver has room for a claim; none where it doesn't tell (upstream's `hasEnoughCapacity`).
    fn roomy(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<Vec<LabelSelector>> {
        let driver = self.driver_kinds.get(&Key::new("", &class.provisioner))?;
        if driver.spec.storage_capacity != Some(true) {
            return None;
        }
        let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
        let wanted = placement::storage_amount(requests);
        let has_room = |capacity: &CSIStorageCapacity| {
            let most = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            let most = most.and_then(|most| most.0.parse::<apimachinery::Quantity>().ok());
            capacity.storage_class_name == class.name_any() && most.is_some_and(|most| most >= wanted)
        };
        // One without a topology is of no node.
        let place = |capacity: &CSIStorageCapacity| {
            LabelSelector::from_json(&serde_json::to_value(capacity.node_topology.as_ref()?).ok()?).ok()
        };
        Some(self.capacities.list().iter().filter(|c| has_room(c)).filter_map(|c| place(c)).collect())
    }

    /// Requirements of the pod's claims.
    fn pod_volumes(&self, pod: &Pod) -> Result<PodVolumes, VolumeError> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut volumes = PodVolumes::default();
        for wanted in informer::claims(pod) {
            let name = &wanted.name;
            let claim = self.claims.get(&Key::new(&namespace, name)).ok_or_else(|| {
                let own = if wanted.template.is_some() {
                    "waiting for ephemeral volume controller to create the "
                } else {
                    ""
                };
                VolumeError::Unschedulable(format!(
                    "{own}persistentvolumeclaim {name:?}{}",
                    if own.is_empty() { " not found" } else { "" }
                ))
            })?;
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(VolumeError::Unschedulable(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            if !wanted.belongs(pod.metadata.uid.as_deref(), claim.owner_references()) {
                return Err(VolumeError::Unschedulable(format!(
                    "PVC \"{namespace}/{name}\" was not created for the pod"
                )));
            }
            volumes.of_drivers.extend(self.attachable_volume(&claim));
            let spec = claim.spec.clone().unwrap_or_default();
            if spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod") {
                volumes.exclusive.push(claim.key());
            }
            if let Some(name) = &spec.volume_name {
                if let Some(volume) = self.volumes.get(&Key::new("", name)) {
                    let affinity =
                        volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.clone());
                    volumes.affinities.extend(affinity);
                    for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
                        // Several zones are separated by two underscores.
                        let values = volume.labels().get(key).map(|v| v.split("__").map(String::from).collect());
                        volumes.zones.extend(values.map(|values| (key.to_string(), values)));
                    }
                }
                let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
                if !bound {
                    return Err(VolumeError::Binding);
                }
                continue;
            }
            let class = self.classes.get(&Key::new("", spec.storage_class_name.as_deref().unwrap_or("")));
            let waits =
                class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
            if !waits {
                return Err(VolumeError::Unschedulable("pod has unbound immediate PersistentVolumeClaims".into()));
            }
            if let Some(node) = claim.annotations().get(SELECTED_NODE) {
                volumes.node = Some(node.clone());
            }
            volumes.waiting.push(self.waiting_claim(&claim, class.as_deref()));
        }
        Ok(volumes)
    }
}
