//! Claims of devices on their way to the API: which devices are given away in this process and not yet in its cache, the reservation of
//! claims for their pod, and their release.

use std::collections::HashMap;
use std::sync::Arc;

use informer::{ClaimName, Key, Keyed as _, Pod, is_made_for, is_reserved_for};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;

use super::request::full_name;
use super::selectors::Compiled;
use super::{DevicesError, Inventory, PodDevices, allocated, classes};
use crate::Scheduler;

/// Keeps the claims of pods from being removed while they have devices (upstream's `resourceapi.Finalizer`).
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim is written anew that somebody else has changed meanwhile.
const MAX_CONFLICTS: usize = 5;

/// Devices that are given away, until the cache shows their claims with them.
#[derive(Debug)]
struct Pending {
    allocation: AllocationResult,
    /// The resource version of the claim once it is written.
    written: Option<u64>,
}

/// What is kept from one attempt to the next.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// By the claim's uid.
    pending: Mutex<HashMap<String, Pending>>,
    compiled: Arc<Compiled>,
}

/// A claim of a pod with what it is given now, if it has no devices yet.
pub(crate) type Reservation = (Arc<ResourceClaim>, Option<AllocationResult>);

/// Why a pod isn't scheduled because of its claims.
#[derive(Debug)]
pub(crate) enum ClaimsError {
    /// Claims of templates are still to be made, which will be seen.
    Waiting,
    /// In upstream's words.
    Unschedulable(String),
    /// A claim is wrong.
    Failed(String),
}

/// Why claims couldn't be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindingError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Changed(String),
}

impl Shared {
    /// Whether a claim is being allocated, and the cache doesn't show yet what came of it.
    fn is_in_flight(&self, claim: &ResourceClaim) -> bool {
        let pending = self.pending.lock();
        let pending = claim.metadata.uid.as_ref().and_then(|uid| pending.get(uid));
        pending.is_some_and(|pending| pending.written.is_none_or(|written| version(claim) < written))
    }
}

fn version(claim: &ResourceClaim) -> u64 {
    claim.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

impl Scheduler {
    /// The devices of a pod: its claims, and what they are allocated from.
    pub(crate) fn devices_of(&self, pod: &Pod) -> Result<PodDevices, ClaimsError> {
        let mut claims = Vec::new();
        for (_, name) in informer::resource_claims(pod) {
            match name {
                ClaimName::Missing => return Err(ClaimsError::Waiting),
                ClaimName::NotNeeded => {}
                ClaimName::Own(name) => claims.push(self.claim_of_devices(pod, name, false)?),
                ClaimName::Generated(name) => claims.push(self.claim_of_devices(pod, name, true)?),
            }
        }
        if claims.is_empty() {
            return Ok(PodDevices::default());
        }
        let inventory = match claims.iter().all(|claim| is_allocated(claim)) {
            true => Inventory::default(),
            false => self.inventory(),
        };
        PodDevices::of(claims, inventory).map_err(|error| match error {
            DevicesError::Unresolvable(why) => ClaimsError::Unschedulable(why),
            DevicesError::Wrong(why) => ClaimsError::Failed(why),
        })
    }

    fn claim_of_devices(&self, pod: &Pod, name: &str, is_generated: bool) -> Result<Arc<ResourceClaim>, ClaimsError> {
        let namespace = pod.namespace().unwrap_or_default();
        let unschedulable = |why: String| Err(ClaimsError::Unschedulable(why));
        let Some(claim) = self.resource_claims.get(&Key::new(&namespace, name)) else {
            return unschedulable(format!("could not find ResourceClaim \"{namespace}/{name}\""));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return unschedulable(format!("resourceclaim {name:?} is being deleted"));
        }
        if is_generated && !is_made_for(&claim, &pod.uid().unwrap_or_default()) {
            let (of, pod) = (full_name(&claim), pod.key());
            return unschedulable(format!("ResourceClaim {of} was not created for Pod {pod} (Pod is not owner)"));
        }
        if !is_allocated(&claim) && self.devices.is_in_flight(&claim) {
            let of = full_name(&claim);
            return unschedulable(format!("resource claim {of} is in the process of being allocated"));
        }
        Ok(claim)
    }

    fn inventory(&self) -> Inventory {
        let claims = self.resource_claims.list();
        let mut pending = self.devices.pending.lock();
        // What the cache shows by now needn't be remembered; a claim that it doesn't show any more has no devices.
        pending.retain(|uid, pending| {
            let Some(written) = pending.written else { return true };
            let seen = claims.iter().find(|claim| claim.metadata.uid.as_deref() == Some(uid));
            seen.is_some_and(|claim| version(claim) < written)
        });
        let of_cache = claims.iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref());
        let allocated = allocated(of_cache.chain(pending.values().map(|pending| &pending.allocation)));
        Inventory {
            slices: self.slices.list(),
            classes: classes(self.device_classes.list()),
            rules: self.taint_rules.list(),
            allocated,
            compiled: self.devices.compiled.clone(),
        }
    }

    /// Others don't get these devices from now on.
    pub(crate) fn reserve_devices(&self, reservations: &[Reservation]) {
        let mut pending = self.devices.pending.lock();
        for (claim, allocation) in reservations {
            if let Some(allocation) = allocation.clone() {
                pending.insert(claim.uid().unwrap_or_default(), Pending { allocation, written: None });
            }
        }
    }

    /// Writes which devices the claims have, and that the pod uses them (upstream's PreBind).
    pub(crate) async fn bind_claims(&self, pod: &Pod, reservations: &[Reservation]) -> Result<(), BindingError> {
        let uid = pod.uid().unwrap_or_default();
        for (claim, allocation) in reservations {
            if !is_reserved_for(claim, &uid) {
                let written = self.bind_claim(pod, claim, allocation.as_ref()).await?;
                if let Some(pending) = self.devices.pending.lock().get_mut(&claim.uid().unwrap_or_default()) {
                    pending.written = Some(version(&written));
                }
            }
        }
        Ok(())
    }

    async fn bind_claim(
        &self,
        pod: &Pod,
        claim: &ResourceClaim,
        allocation: Option<&AllocationResult>,
    ) -> Result<ResourceClaim, BindingError> {
        let api: Api<ResourceClaim> =
            Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default());
        let mut current = claim.clone();
        for attempt in 0.. {
            match self.write_binding(&api, pod, current, allocation).await {
                Err(BindingError::Api(kube::Error::Api(status))) if status.code == 409 && attempt < MAX_CONFLICTS => {
                    current = api.get(&claim.name_any()).await?;
                    if current.metadata.uid != claim.metadata.uid {
                        let why = format!("claim {} got deleted in the meantime", full_name(claim));
                        return Err(BindingError::Changed(why));
                    }
                }
                other => return other,
            }
        }
        Err(BindingError::Changed(format!("claim {} is changed all the time", full_name(claim))))
    }

    async fn write_binding(
        &self,
        api: &Api<ResourceClaim>,
        pod: &Pod,
        mut claim: ResourceClaim,
        allocation: Option<&AllocationResult>,
    ) -> Result<ResourceClaim, BindingError> {
        let changed = |what: &str| BindingError::Changed(format!("claim {} got {what}", full_name(&claim)));
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(changed("deleted in the meantime"));
        }
        match (allocation, is_allocated(&claim)) {
            (Some(_), true) => return Err(changed("allocated elsewhere in the meantime")),
            (None, false) => return Err(changed("deallocated elsewhere in the meantime")),
            _ => {}
        }
        if let Some(allocation) = allocation {
            if !claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
                claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
                claim = api.replace(&claim.name_any(), &PostParams::default(), &claim).await?;
            }
            let now = Time(Timestamp::from_second(apimachinery::clock::now().as_second()).unwrap_or_default());
            let allocation = AllocationResult { allocation_timestamp: Some(now), ..allocation.clone() };
            claim.status.get_or_insert_default().allocation = Some(allocation);
        }
        let consumer = ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
        Ok(api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await?)
    }

    /// The pod isn't bound: others may have its devices (upstream's Unreserve). Claims that keep theirs are given back by their controller.
    pub(crate) async fn unreserve_devices(&self, pod: &Pod, reservations: &[Reservation]) {
        let uid = pod.uid().unwrap_or_default();
        for (claim, _) in reservations {
            let api: Api<ResourceClaim> =
                Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default());
            let released = async {
                let mut current = api.get(&claim.name_any()).await?;
                if !is_reserved_for(&current, &uid) {
                    return Ok(());
                }
                if let Some(users) = current.status.as_mut().and_then(|status| status.reserved_for.as_mut()) {
                    users.retain(|user| user.uid != uid);
                }
                api.replace_status(&claim.name_any(), &PostParams::default(), &current).await.map(|_| ())
            };
            let released: Result<(), kube::Error> = released.await;
            if let Err(error) = released {
                tracing::debug!(claim = full_name(claim), %error, "failed to release a claim of a pod that wasn't bound");
            }
            let mut pending = self.devices.pending.lock();
            let claim_uid = claim.uid().unwrap_or_default();
            if pending.get(&claim_uid).is_some_and(|pending| pending.written.is_none()) {
                pending.remove(&claim_uid);
            }
        }
    }

    /// Gives the devices of a claim back that keep its pod from all nodes (upstream's PostFilter).
    pub(crate) async fn deallocate(&self, claim: &ResourceClaim) -> Result<(), kube::Error> {
        let api: Api<ResourceClaim> =
            Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default());
        let mut claim = claim.clone();
        claim.status = None;
        match api.replace_status(&claim.name_any(), &PostParams::default(), &claim).await {
            // It has changed, which wakes its pods.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_in_flight_until_the_cache_shows_what_was_written() {
        let claim = |version: &str| -> ResourceClaim {
            serde_json::from_value(
                json!({"metadata": {"name": "c", "uid": "u", "resourceVersion": version}, "spec": {}}),
            )
            .unwrap()
        };
        let shared = Shared::default();
        assert!(!shared.is_in_flight(&claim("7")));
        let allocation = AllocationResult::default();
        shared.pending.lock().insert("u".into(), Pending { allocation: allocation.clone(), written: None });
        assert!(shared.is_in_flight(&claim("7")));
        shared.pending.lock().insert("u".into(), Pending { allocation, written: Some(9) });
        assert!(shared.is_in_flight(&claim("7")));
        assert!(!shared.is_in_flight(&claim("9")), "it was written, and may have been given back since");
    }
}
