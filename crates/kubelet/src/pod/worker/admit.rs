//! Asks whether the node takes a pod in ([`crate::pod::admission`]), with what is known of the node.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use super::Worker;
use crate::Agent;
use crate::machine::allocatable;
use crate::node::eviction::Pressures;
use crate::node::status;
use crate::pod::admission::{self, Amounts, Eviction, Obstacle, PREEMPTED, Refusal, Share, Verdict};
use crate::pod::static_pods;

/// How long the API may take to say how the node is labelled now.
const NODE_WAIT: Duration = Duration::from_secs(5);

impl Agent {
    /// Takes a pod in that is new here, or says why not. A critical pod that lacks room gets that of others, and waits for their end.
    pub async fn admit(&self, uid: &str, pod: &Pod) -> Result<(), Refusal> {
        if let Some(refusal) = admission::unfit(pod) {
            return Err(refusal);
        }
        if !static_pods::is_static(pod) {
            self.admitted.settled().await;
        }
        let own = Share::of(pod, static_pods::is_static(pod));
        let Pressures { disk, memory, processes } = *self.pressures.borrow();
        let conditions = [(disk, "DiskPressure"), (memory, "MemoryPressure"), (processes, "PIDPressure")];
        let conditions: Vec<&str> = conditions.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if let Some(refusal) = admission::under_pressure(pod, &own, &conditions) {
            return Err(refusal);
        }
        let mut node = self.informers.of::<Node>().get(&informer::Key::new("", &self.config.node_name));
        let mut verdict = self.admitted.ask(uid, pod, &own, &self.offer(node.as_deref()), node.as_deref());
        // They may have come or gone a moment ago, as the scheduler has seen already.
        if matches!(&verdict, Verdict::Out(found) if found.iter().all(Obstacle::may_be_outdated)) {
            let nodes: Api<Node> = Api::all(self.client.clone());
            if let Ok(Ok(fresh)) = tokio::time::timeout(NODE_WAIT, nodes.get(&self.config.node_name)).await {
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
        let (_, own) = allocatable::amounts(&self.config, &status::NodeFacts::gather(&self.config.data_dir));
        let amounts = own.as_object().into_iter().flatten();
        amounts.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount)?))).collect()
    }

    fn preempt(&self, uid: &str) {
        // Its worker may only be about to begin, and takes it from here then.
        self.evictions.lock().insert(uid.into(), Eviction::Preempted);
        let workers = self.workers.lock();
        let Some(worker) = workers.get(uid) else { return };
        if let Some(pod) = worker.borrow().as_ref() {
            self.events.warning(pod.as_ref(), "Preempting", PREEMPTED);
        }
        worker.send_modify(|_| ());
    }
}

impl Worker {
    fn share(&self) -> Share {
        Share::of(&self.pod, static_pods::is_static(&self.pod))
    }

    /// The pod as it is wanted now; what it asks for may have changed.
    pub(super) fn take(&mut self, pod: Arc<Pod>) {
        let wants_anew = pod.metadata.generation != self.pod.metadata.generation;
        self.pod = pod;
        if wants_anew && self.agent.admitted.has(&self.uid) {
            self.agent.admitted.hold(&self.uid, self.share());
        }
    }

    pub(super) fn heed_eviction(&mut self) {
        let (message, preempted) = match self.agent.evictions.lock().remove(&self.uid) {
            None => return,
            Some(Eviction::Evicted(message)) => (message, false),
            Some(Eviction::Preempted) => (PREEMPTED.into(), true),
        };
        self.saved.evicted = Some(message);
        self.saved.preempted = preempted;
    }

    /// Asks the node to take the pod in, unless it has already; reason and message of a refusal.
    pub(super) async fn admit(&self) -> Option<(String, String)> {
        if self.agent.admitted.has(&self.uid) {
            return None;
        }
        if self.saved.sandbox.is_some() || !self.saved.containers.is_empty() {
            self.agent.admitted.hold(&self.uid, self.share());
            return None;
        }
        let Err(Refusal { reason, message }) = self.agent.admit(&self.uid, &self.pod).await else { return None };
        self.agent.events.warning(self.pod.as_ref(), &reason, message.clone());
        Some((reason, format!("Pod was rejected: {message}")))
    }
}
