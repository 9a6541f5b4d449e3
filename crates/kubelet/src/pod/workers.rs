//! The workers of pods, as the other parts of the kubelet reach them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::admission::Eviction;

/// What the API wants of a pod: the object, or nothing once it is gone.
pub type Wanted = Option<Arc<Pod>>;

/// One channel to each pod's worker, and what a worker is to take from here when it is woken. All by the pods' uids.
#[derive(Default)]
pub struct Workers {
    senders: Mutex<HashMap<String, watch::Sender<Wanted>>>,
    /// Pods that have to go, with the reason. Its worker may not be there yet.
    evictions: Mutex<HashMap<String, Eviction>>,
    /// Pods whose volumes are out of date.
    stale: Mutex<HashSet<String>>,
}

impl Workers {
    /// The channel to a pod's worker, as long as it is at work.
    pub fn get(&self, uid: &str) -> Option<watch::Sender<Wanted>> {
        self.senders.lock().get(uid).filter(|s| !s.is_closed()).cloned()
    }

    /// Whether there is a worker, be it only until its end is noticed.
    pub fn contains(&self, uid: &str) -> bool {
        self.senders.lock().contains_key(uid)
    }

    /// Hands a pod to its worker. Where there is none and the pod is wanted, the channel of a new worker is returned, which the caller starts.
    pub fn deliver(&self, uid: &str, wanted: Wanted) -> Option<watch::Receiver<Wanted>> {
        let mut senders = self.senders.lock();
        if let Some(sender) = senders.get(uid).filter(|s| !s.is_closed()) {
            sender.send_replace(wanted);
            return None;
        }
        wanted.as_ref()?;
        let (sender, receiver) = watch::channel(wanted);
        senders.insert(uid.into(), sender);
        Some(receiver)
    }

    /// Forgets a worker that has ended, unless another one has begun for the same pod.
    pub fn forget(&self, uid: &str) {
        let mut senders = self.senders.lock();
        if senders.get(uid).is_some_and(watch::Sender::is_closed) {
            senders.remove(uid);
        }
    }

    /// Has a worker look at its pod.
    pub fn wake(&self, uid: &str) {
        if let Some(worker) = self.senders.lock().get(uid) {
            worker.send_modify(|_| ());
        }
    }

    /// Has the volumes of a pod renewed when its worker next looks.
    pub fn mark_stale(&self, uid: String) {
        self.stale.lock().insert(uid);
    }

    /// Has the volumes of pods renewed now.
    pub fn refresh_volumes(&self, uids: impl IntoIterator<Item = String>) {
        for uid in uids {
            self.mark_stale(uid.clone());
            self.wake(&uid);
        }
    }

    /// Whether a pod's volumes are out of date; asked once.
    pub fn take_stale(&self, uid: &str) -> bool {
        self.stale.lock().remove(uid)
    }

    /// Has a pod end. The pod is returned as its worker knows it, if it has one.
    pub fn evict(&self, uid: &str, eviction: Eviction) -> Option<Arc<Pod>> {
        self.evictions.lock().insert(uid.into(), eviction);
        let senders = self.senders.lock();
        let worker = senders.get(uid)?;
        let pod = worker.borrow().clone();
        worker.send_modify(|_| ());
        pod
    }

    /// Why a pod has to end, if it has to; asked once.
    pub fn take_eviction(&self, uid: &str) -> Option<Eviction> {
        self.evictions.lock().remove(uid)
    }

    /// Whether a pod has to end and its worker doesn't know it yet.
    pub fn has_eviction(&self, uid: &str) -> bool {
        self.evictions.lock().contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_worker_at_a_time() {
        let (workers, pod) = (Workers::default(), Arc::new(Pod::default()));
        assert!(workers.deliver("a", None).is_none(), "nobody starts a worker for what is gone");
        let mut first = workers.deliver("a", Some(pod.clone())).unwrap();
        assert!(workers.deliver("a", Some(pod.clone())).is_none() && first.has_changed().unwrap());
        first.mark_unchanged();
        assert!(workers.evict("a", Eviction::Preempted).is_some() && first.has_changed().unwrap());
        assert!(workers.has_eviction("a") && workers.take_eviction("a").is_some() && !workers.has_eviction("a"));
        assert!(workers.evict("b", Eviction::Preempted).is_none() && workers.has_eviction("b"));
        workers.refresh_volumes(["a".to_string()]);
        assert!(workers.take_stale("a") && !workers.take_stale("a"));
        drop(first);
        assert!(workers.get("a").is_none() && workers.contains("a"));
        let second = workers.deliver("a", Some(pod)).unwrap();
        workers.forget("a");
        assert!(workers.get("a").is_some(), "it is another worker by now");
        drop(second);
        workers.forget("a");
        assert!(!workers.contains("a"));
    }
}
