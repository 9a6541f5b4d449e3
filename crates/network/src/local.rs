//! The pods of this node with addresses of their own, from the moment they have addresses, before the API shows them. Network policies and
//! the cluster's DNS look pods up here before their first process runs, and containers wait here until the policies that select their
//! pod are enforced.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::nft::Protocol;

/// A pod with its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Named ports: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// One address of each family.
    pub addresses: Vec<IpAddr>,
}

/// The pods of this node. Clones share the list.
#[derive(Debug, Clone)]
pub struct LocalPods(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: RwLock<Known>,
    /// Counts additions and removals.
    changes: watch::Sender<u64>,
    /// Counts calls of `allow_start`.
    permits: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    pods: HashMap<String, Entry>,
    /// The uid of the pod that has an address.
    owners: HashMap<IpAddr, String>,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<LocalPod>,
    may_start: bool,
}

impl Default for LocalPods {
    fn default() -> Self {
        let (changes, permits) = (watch::Sender::new(0), watch::Sender::new(0));
        LocalPods(Arc::new(Shared { known: RwLock::default(), changes, permits }))
    }
}

impl LocalPods {
    /// Adds or replaces a pod. Replacing a pod by an equal one changes nothing.
    pub fn add(&self, pod: LocalPod) {
        let mut known = self.0.known.write();
        if known.pods.get(&pod.uid).is_some_and(|entry| *entry.pod == pod) {
            return;
        }
        known.forget(&pod.uid);
        known.owners.extend(pod.addresses.iter().map(|address| (*address, pod.uid.clone())));
        known.pods.insert(pod.uid.clone(), Entry { pod: Arc::new(pod), may_start: false });
        drop(known);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Removes a pod: it has no addresses any more.
    pub fn remove(&self, uid: &str) {
        let removed = self.0.known.write().forget(uid);
        if removed {
            self.0.changes.send_modify(|count| *count += 1);
            // Ends `wait_until_allowed` of this pod.
            self.0.permits.send_modify(|count| *count += 1);
        }
    }

    /// All pods.
    pub fn list(&self) -> Vec<Arc<LocalPod>> {
        self.0.known.read().pods.values().map(|entry| entry.pod.clone()).collect()
    }

    /// Notifies of changes of the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The namespace of the pod that has an address.
    pub fn namespace_of(&self, address: IpAddr) -> Option<String> {
        let known = self.0.known.read();
        let owner = known.owners.get(&address)?;
        known.pods.get(owner).map(|entry| entry.pod.namespace.clone())
    }

    /// Allows the start of these pods, except those that changed after their policies were written.
    pub fn allow_start<'a>(&self, pods: impl IntoIterator<Item = &'a Arc<LocalPod>>) {
        let mut known = self.0.known.write();
        for pod in pods {
            if let Some(entry) = known.pods.get_mut(&pod.uid).filter(|entry| Arc::ptr_eq(&entry.pod, pod)) {
                entry.may_start = true;
            }
        }
        drop(known);
        self.0.permits.send_modify(|count| *count += 1);
    }

    /// Waits until a pod's containers may start. Returns at once for an unknown pod.
    pub async fn wait_until_allowed(&self, uid: &str) {
        let mut permits = self.0.permits.subscribe();
        loop {
            permits.borrow_and_update();
            if self.0.known.read().pods.get(uid).is_none_or(|entry| entry.may_start) {
                return;
            }
            if permits.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Known {
    /// Whether it was there.
    fn forget(&mut self, uid: &str) -> bool {
        let Some(old) = self.pods.remove(uid) else { return false };
        for address in &old.pod.addresses {
            // It may have another owner by now.
            if self.owners.get(address).is_some_and(|owner| owner == uid) {
                self.owners.remove(address);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn pod(uid: &str, address: &str) -> LocalPod {
        let addresses = vec![address.parse().unwrap()];
        LocalPod { uid: uid.into(), namespace: format!("of-{uid}"), addresses, ..LocalPod::default() }
    }

    #[test]
    fn a_pod_starts_when_what_was_written_is_about_it_as_it_is() {
        let pods = LocalPods::default();
        let waits = |uid: &'static str| pods.wait_until_allowed(uid).now_or_never().is_none();
        assert!(!waits("a"), "who isn't known waits for nothing");
        pods.add(pod("a", "10.42.0.2"));
        assert!(waits("a"));
        let seen = pods.list();
        // It got another address before the rules for the old one were there.
        pods.add(pod("a", "10.42.0.3"));
        pods.allow_start(&seen);
        assert!(waits("a"));
        pods.allow_start(&pods.list());
        assert!(!waits("a"));
        // The same once more changes nothing.
        pods.add(pod("a", "10.42.0.3"));
        assert!(!waits("a"));
    }

    #[test]
    fn an_address_is_of_who_has_it_now() {
        let (pods, address) = (LocalPods::default(), "10.42.0.2".parse().unwrap());
        assert_eq!(pods.namespace_of(address), None);
        pods.add(pod("a", "10.42.0.2"));
        pods.add(pod("b", "10.42.0.2"));
        pods.remove("a");
        assert_eq!(pods.namespace_of(address).as_deref(), Some("of-b"));
        pods.remove("b");
        assert_eq!(pods.namespace_of(address), None);
    }

    #[test]
    fn who_waits_for_a_pod_that_goes_is_let_go() {
        let pods = LocalPods::default();
        pods.add(pod("a", "10.42.0.2"));
        let mut waiting = Box::pin(pods.wait_until_allowed("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        pods.remove("a");
        assert!(waiting.now_or_never().is_some());
    }
}
