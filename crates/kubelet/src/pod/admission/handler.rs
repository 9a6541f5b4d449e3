//! Asks whether the node takes a pod in, with what is known of the node.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use informer::{Informer, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use tokio::sync::watch;

use super::{
    Admitted, Amounts, Eviction, Obstacle, PREEMPTED, Pressures, Refusal, Share, Verdict, under_pressure, unfit,
};
use crate::config::Config;
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
    /// What the pods here have of the node.
    pub admitted: Admitted,
}

impl PodAdmission {
    /// `nodes` has the own Node; victims of preemption are told by `workers`.
    pub fn new(
        config: Arc<Config>,
        client: Client,
        nodes: Informer<Node>,
        events: Recorder,
        pressures: watch::Receiver<Pressures>,
        workers: Arc<Workers>,
    ) -> Self {
        PodAdmission { config, client, nodes, events, pressures, workers, admitted: Admitted::default() }
    }

    /// Takes a pod in that is new here, or says why not. A critical pod that lacks room gets that of others, and waits for their end.
    pub async fn admit(&self, uid: &str, pod: &Pod) -> Result<(), Refusal> {
        if let Some(refusal) = unfit(pod) {
            return Err(refusal);
        }
        if !is_static(pod) {
            self.admitted.settled().await;
        }
        let own = Share::of(pod, is_static(pod));
        let Pressures { disk, memory, pids } = *self.pressures.borrow();
        let conditions = [(disk, "DiskPressure"), (memory, "MemoryPressure"), (pids, "PIDPressure")];
        let conditions: Vec<&str> = conditions.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if let Some(refusal) = under_pressure(pod, &own, &conditions) {
            return Err(refusal);
        }
        let mut node = self.nodes.get(&informer::Key::new("", &self.config.node_name));
        let mut verdict = self.admitted.ask(uid, pod, &own, &self.offer(node.as_deref()), node.as_deref());
        // They may have come or gone a moment ago, as the scheduler has seen already.
        if matches!(&verdict, Verdict::Out(found) if found.iter().all(Obstacle::may_be_outdated)) {
            let nodes: Api<Node> = Api::all(self.client.clone());
            if let Ok(Ok(fresh)) = tokio::time::timeout(NODE_TIMEOUT, nodes.get(&self.config.node_name)).await {
                node = Some(fresh.into());
                verdict = self.admitted.ask(uid, pod, &own, &self.offer(node.as_deref()), node.as_deref());
            }
        }
        match verdict {
            Verdict::In => Ok(()),
            Verdict::Instead(victims) => {
                victims.iter().for_each(|uid| self.preempt(uid));
                self.admitted.gone(&victims).await;
                Ok(())
            }
            Verdict::Out(found) => {
                let refusal = found.first().map(Obstacle::refusal);
                Err(refusal.unwrap_or_else(|| Refusal::new("UnknownReason", "GeneralPredicates failed")))
            }
            Verdict::Stuck(why) => {
                let message = format!("Unexpected error while attempting to recover from admission failure: {why}");
                Err(Refusal::new("UnexpectedAdmissionError", message))
            }
        }
    }

    /// What the node has for pods: what it told the API, once it has; extended resources are known there alone.
    fn offer(&self, node: Option<&Node>) -> Amounts {
        let told = node.and_then(|node| node.status.as_ref()).and_then(|status| status.allocatable.as_ref());
        if let Some(told) = told.filter(|told| told.contains_key("pods")) {
            let amounts = told.iter().filter_map(|(name, amount)| Some((name.clone(), amount.0.parse().ok()?)));
            return amounts.collect();
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
