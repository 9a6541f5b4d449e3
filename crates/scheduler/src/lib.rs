//! The scheduler (upstream's kube-scheduler).
//!
//! [`plan`] is pure: from a pod and a snapshot of nodes and their pods to the best node, or to the reasons why none fits; so is
//! [`preemption`], which selects victims for a pod of higher priority. [`start`] keeps the snapshot up to date, takes pods from a queue, and
//! binds in the background; a pod is assumed on its node from the moment of the decision.

#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod devices;
mod event_handlers;
pub mod filters;
mod node_predicates;
pub mod plan;
pub mod pod;
pub mod preemption;
pub mod profile;
pub mod resources;
mod schedule_one;
mod score;
pub mod snapshot;
mod topology;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;

use informer::{Informers, Key, Pod, Queue, Recorder};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::Client;
use parking_lot::Mutex;

use event_handlers::Waiting;
use pod::PodInfo;
use profile::{Profile, Profiles};
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
    resource_claims: informer::Informer<ResourceClaim>,
    slices: informer::Informer<ResourceSlice>,
    device_classes: informer::Informer<DeviceClass>,
    taint_rules: informer::Informer<DeviceTaintRule>,
    devices: Arc<devices::binding::Shared>,
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
        resource_claims: informers.of(),
        slices: informers.of(),
        device_classes: informers.of(),
        taint_rules: informers.of(),
        devices: Arc::default(),
    };
    let nodes = informers.of::<Node>();
    let queue = Queue::of(&scheduler.pods, Recorder::new(client.clone(), profile::DEFAULT_SCHEDULER_NAME, ""));
    let waiting = Waiting::new(&queue);
    scheduler.handle_events(informers, &queue, &waiting);
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
                scheduler.capacities,
                scheduler.resource_claims,
                scheduler.slices,
                scheduler.device_classes,
                scheduler.taint_rules,
            );
            // Parked before it is scheduled, so that a change meanwhile isn't missed.
            waiting.park(key.clone());
            let (settled, again) = scheduler.schedule(&key).await?;
            if settled {
                waiting.remove(&key);
            }
            Ok::<_, kube::Error>(again)
        }
    });
}

/// Whether a pod has a node.
fn is_assigned(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.node_name.is_some())
}

fn scheduler_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(profile::DEFAULT_SCHEDULER_NAME)
}

fn is_ours(pod: &Pod, profiles: &HashMap<String, (Profile, Recorder)>) -> bool {
    let spec = pod.spec.as_ref();
    profiles.contains_key(scheduler_name(pod))
        && spec.and_then(|s| s.scheduling_gates.as_ref()).is_none_or(Vec::is_empty)
}
