//! The claims that a pod's volumes stand for.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::pod::Pod;

/// A volume that is a claim.
#[derive(Debug)]
pub struct Claim<'a> {
    pub name: String,
    /// The claim is the pod's own, made from this (generic ephemeral volumes, KEP-1698).
    pub template: Option<&'a PersistentVolumeClaimTemplate>,
}

impl Claim<'_> {
    /// Whether a claim that is there may be the one: a pod's own claim must have been made for it, and not be
    /// somebody's with the same name. `uid` is the pod's.
    pub fn belongs(&self, uid: Option<&str>, owners: &[OwnerReference]) -> bool {
        self.template.is_none() || owners.iter().any(|o| o.controller == Some(true) && Some(o.uid.as_str()) == uid)
    }
}

/// What one volume of the pod `pod` says of claims.
pub fn claim_of<'a>(
    pod: &str,
    volume: &str,
    claim: Option<&PersistentVolumeClaimVolumeSource>,
    ephemeral: Option<&'a EphemeralVolumeSource>,
) -> Option<Claim<'a>> {
    if let Some(source) = claim {
        return Some(Claim { name: source.claim_name.clone(), template: None });
    }
    let template = ephemeral?.volume_claim_template.as_ref()?;
    Some(Claim { name: format!("{pod}-{volume}"), template: Some(template) })
}

/// All claims of a pod.
pub fn claims(pod: &Pod) -> Vec<Claim<'_>> {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let volumes = pod.spec.iter().flat_map(|s| &s.volumes);
    volumes.filter_map(|v| claim_of(name, &v.name, v.persistent_volume_claim.as_ref(), v.ephemeral.as_ref())).collect()
}
