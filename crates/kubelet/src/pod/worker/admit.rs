//! A worker asks whether the node takes its pod in ([`crate::pod::admission`]).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::pod::admission::{Eviction, PREEMPTED, PodResources, Rejection};
use crate::spec::is_static;

impl Worker {
    fn share(&self) -> PodResources {
        PodResources::of(&self.pod, is_static(&self.pod))
    }

    /// The pod as it is wanted now; what it asks for may have changed.
    pub(super) fn update_pod(&mut self, pod: Arc<Pod>) {
        let wants_anew = pod.metadata.generation != self.pod.metadata.generation;
        self.pod = pod;
        if wants_anew && self.context.admission.admitted.has(&self.uid) {
            self.context.admission.admitted.hold(&self.uid, self.share());
        }
    }

    pub(super) fn take_eviction(&mut self) {
        let (message, preempted) = match self.context.workers.take_eviction(&self.uid) {
            None => return,
            Some(Eviction::Evicted(message)) => (message, false),
            Some(Eviction::Preempted) => (PREEMPTED.into(), true),
        };
        self.saved.evicted = Some(message);
        self.saved.preempted = preempted;
    }

    /// Asks the node to take the pod in, unless it has already; reason and message of a rejection.
    pub(super) async fn admit(&self) -> Option<(String, String)> {
        if self.context.admission.admitted.has(&self.uid) {
            return None;
        }
        if self.saved.sandbox.is_some() || !self.saved.containers.is_empty() {
            self.context.admission.admitted.hold(&self.uid, self.share());
            return None;
        }
        let Err(Rejection { reason, message }) = self.context.admission.admit(&self.uid, &self.pod).await else {
            return None;
        };
        self.context.events.warning(self.pod.as_ref(), &reason, message.clone());
        Some((reason, format!("Pod was rejected: {message}")))
    }
}
