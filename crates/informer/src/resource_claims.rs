//! The claims of devices that pods use (`spec.resourceClaims`, KEP-4381).

use k8s_openapi::api::core::v1::{PodResourceClaim, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt as _;

use crate::Pod;

/// The name of the claim that an entry of a pod leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimName<'a> {
    /// Somebody made this claim, and the pod may share it with others.
    Own(&'a str),
    /// It was made for the pod.
    Generated(&'a str),
    /// There is no claim for this entry, and none is needed.
    NotNeeded,
    /// It is still to be made.
    Missing,
}

impl<'a> ClaimName<'a> {
    /// What an entry of `spec.resourceClaims` leads to by the pod's `status.resourceClaimStatuses`.
    pub fn of(entry: &'a PodResourceClaim, statuses: Option<&'a Vec<PodResourceClaimStatus>>) -> Self {
        if let Some(name) = &entry.resource_claim_name {
            return ClaimName::Own(name);
        }
        let status = statuses.into_iter().flatten().find(|status| status.name == entry.name);
        match status {
            None => ClaimName::Missing,
            Some(status) => status.resource_claim_name.as_deref().map_or(ClaimName::NotNeeded, ClaimName::Generated),
        }
    }

    /// The name, if there is a claim.
    pub fn name(self) -> Option<&'a str> {
        match self {
            ClaimName::Own(name) | ClaimName::Generated(name) => Some(name),
            ClaimName::NotNeeded | ClaimName::Missing => None,
        }
    }
}

/// The entries of a pod, each with what it leads to.
pub fn resource_claims(pod: &Pod) -> impl Iterator<Item = (&PodResourceClaim, ClaimName<'_>)> {
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    entries.map(move |entry| (entry, ClaimName::of(entry, statuses)))
}

/// Whether a claim was made for the pod with this uid.
pub fn is_made_for(claim: &ResourceClaim, uid: &str) -> bool {
    claim.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether a claim is reserved for the consumer with this uid.
pub fn is_reserved_for(claim: &ResourceClaim, uid: &str) -> bool {
    claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()).any(|consumer| consumer.uid == uid)
}
