//! Asks whether the node takes a pod in, with what is known of the node.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use informer::{Informer, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use tokio::sync::watch;

use super::{
    Admitted, Amounts, Decision, Eviction, PREEMPTED, PodResources, PredicateFailure, Pressures, Rejection,
    forbidden_sysctl, under_pressure, unsupported,
};
use crate::config::Config;
use crate::devices::DeviceManager;
use crate::machine::{MachineInfo, allocatable};
use crate::pod::workers::Workers;
use crate::spec::is_static;

/// How long the API may take to say how the node is labelled now.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides which pods the node takes in.
pub struct PodAdmission {
    config: Arc<Config>,
    client: Client,
    nodes: Informer<Node>,
    events: Recorder,
    pressures: watch::Receiver<Pressures>,
    workers: Arc<Workers>,
    devices: Arc<DeviceManager>,
    /// What the pods here have of the node.
    pub admitted: Admitted,
}

impl PodAdmission {
    /// `nodes` has the own Node; victims of preemption are evicted by `workers`; `devices` gives pods those that they ask for.
    pub fn new(
        config: Arc<Config>,
        client: Client,
        nodes: Informer<Node>,
        events: Recorder,
        pressures: watch::Receiver<Pressures>,
        workers: Arc<Workers>,
        devices: Arc<DeviceManager>,
    ) -> Self {
        PodAdmission { config, client, nodes, events, pressures, workers, devices, admitted: Admitted::default() }
    }

    /// Takes a pod in that is new here, or says why not. A critical pod that lacks room gets that of others, and waits for their end.
    ///
    /// # Errors
    /// The reason and message with which the pod fails.
    pub async fn admit(&self, uid: &str, pod: &Pod) -> Result<(), Rejection> {
        let refused = unsupported(pod).or_else(|| forbidden_sysctl(pod, &self.config.allowed_unsafe_sysctls));
        if let Some(rejection) = refused {
            return Err(rejection);
        }
        if !is_static(pod) {
            self.admitted.settled().await;
        }
        let own = PodResources::of(pod, is_static(pod));
        let Pressures { disk, memory, pids } = *self.pressures.borrow();
        let conditions = [(disk, "DiskPressure"), (memory, "MemoryPressure"), (pids, "PIDPressure")];
        let conditions: Vec<&str> = conditions.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if let Some(rejection) = under_pressure(pod, &own, &conditions) {
            return Err(rejection);
        }
        if let Err(error) = self.devices.allocate(uid, pod).await {
            let message = format!("Allocate failed due to {error}, which is unexpected");
            return Err(Rejection::new("UnexpectedAdmissionError", message));
        }
        let admitted = self.admit_beside_others(uid, pod, &own).await;
        if admitted.is_err() {
            self.devices.release(uid);
        }
        admitted
    }

    /// The pod has ended: others may have what it had of the node, also its devices.
    pub fn release(&self, uid: &str) {
        self.admitted.release(uid);
        self.devices.release(uid);
    }

    /// Takes a pod in if it can be here beside the others.
    async fn admit_beside_others(&self, uid: &str, pod: &Pod, own: &PodResources) -> Result<(), Rejection> {
        let mut node = self.nodes.get(&informer::Key::new("", &self.config.node_name));
        let mut decision = self.admitted.try_admit(uid, pod, own, &self.allocatable(node.as_deref()), node.as_deref());
        // They may have come or gone a moment ago, as the scheduler has seen already.
        if matches!(&decision, Decision::Reject(found) if found.iter().all(PredicateFailure::may_be_outdated)) {
            let nodes: Api<Node> = Api::all(self.client.clone());
            if let Ok(Ok(fresh)) = tokio::time::timeout(NODE_TIMEOUT, nodes.get(&self.config.node_name)).await {
                node = Some(fresh.into());
                decision = self.admitted.try_admit(uid, pod, own, &self.allocatable(node.as_deref()), node.as_deref());
            }
        }
        match decision {
            Decision::Admit => Ok(()),
            Decision::AdmitAfter(victims) => {
                victims.iter().for_each(|uid| self.preempt(uid));
                self.admitted.gone(&victims).await;
                Ok(())
            }
            Decision::Reject(found) => {
                let rejection = found.first().map(PredicateFailure::rejection);
                Err(rejection.unwrap_or_else(|| Rejection::new("UnknownReason", "GeneralPredicates failed")))
            }
            Decision::NoVictims(why) => {
                let message = format!("Unexpected error while attempting to recover from admission failure: {why}");
                Err(Rejection::new("UnexpectedAdmissionError", message))
            }
        }
    }

    /// The node's allocatable resources: those of its Node object, once it has them; extended resources are known there alone.
    fn allocatable(&self, node: Option<&Node>) -> Amounts {
        let told = node.and_then(|node| node.status.as_ref()).and_then(|status| status.allocatable.as_ref());
        if let Some(told) = told.filter(|told| told.contains_key("pods")) {
            let amounts = told.iter().filter_map(|(name, amount)| Some((name.clone(), amount.0.parse().ok()?)));
            let mut amounts: Amounts = amounts.collect();
            self.devices.raise_to_allocated(&mut amounts);
            return amounts;
        }
        let (_, own) = allocatable::amounts(&self.config, &MachineInfo::gather(&self.config.data_dir));
        let amounts = own.as_object().into_iter().flatten();
        amounts.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount)?))).collect()
    }

    fn preempt(&self, uid: &str) {
        // Its worker may only be about to begin, and takes it from there then.
        if let Some(pod) = self.workers.evict(uid, Eviction::Preempted) {
            self.events.warning(pod.as_ref(), "Preempting", PREEMPTED);
        }
    }
}
