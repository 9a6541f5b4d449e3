//! A worker asks whether the node takes its pod in ([`crate::pod::admission`]).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::pod::admission::{Eviction, PREEMPTED, Refusal, Share};
use crate::spec::is_static;

impl Worker {
    fn share(&self) -> Share {
        Share::of(&self.pod, is_static(&self.pod))
    }

    /// The pod as it is wanted now; what it asks for may have changed.
    pub(super) fn take(&mut self, pod: Arc<Pod>) {
        let wants_anew = pod.metadata.generation != self.pod.metadata.generation;
        self.pod = pod;
        if wants_anew && self.context.admission.admitted.has(&self.uid) {
            self.context.admission.admitted.hold(&self.uid, self.share());
        }
    }

    pub(super) fn heed_eviction(&mut self) {
        let (message, preempted) = match self.context.workers.take_eviction(&self.uid) {
            None => return,
            Some(Eviction::Evicted(message)) => (message, false),
            Some(Eviction::Preempted) => (PREEMPTED.into(), true),
        };
        self.saved.evicted = Some(message);
        self.saved.preempted = preempted;
    }

    /// Asks the node to take the pod in, unless it has already; reason and message of a refusal.
    pub(super) async fn admit(&self) -> Option<(String, String)> {
        if self.context.admission.admitted.has(&self.uid) {
            return None;
        }
        if self.saved.sandbox.is_some() || !self.saved.containers.is_empty() {
            self.context.admission.admitted.hold(&self.uid, self.share());
            return None;
        }
        let Err(Refusal { reason, message }) = self.context.admission.admit(&self.uid, &self.pod).await else {
            return None;
        };
        self.context.events.warning(self.pod.as_ref(), &reason, message.clone());
        Some((reason, format!("Pod was rejected: {message}")))
    }
}
