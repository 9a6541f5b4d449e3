//! The claims that a pod's volumes stand for.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimTemplate, Pod, Volume};
use kube::ResourceExt as _;

/// A volume that is a claim.
#[derive(Debug)]
pub struct Claim<'a> {
    pub name: String,
    /// The claim is the pod's own, made from this (generic ephemeral volumes, KEP-1698).
    pub template: Option<&'a PersistentVolumeClaimTemplate>,
}

impl Claim<'_> {
    /// Whether a claim that is there may be the one: a pod's own claim must have been made for it, and not be
    /// somebody's with the same name.
    pub fn belongs(
        &self,
        pod: &Pod,
        owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
    ) -> bool {
        self.template.is_none()
            || owners.iter().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
    }
}

/// The claim of one volume of a pod, if it is one.
pub fn claim_of<'a>(pod: &Pod, volume: &'a Volume) -> Option<Claim<'a>> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(Claim { name: source.claim_name.clone(), template: None });
    }
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    Some(Claim { name: format!("{}-{}", pod.name_any(), volume.name), template: Some(template) })
}

/// All claims of a pod.
pub fn claims(pod: &Pod) -> Vec<Claim<'_>> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(pod, volume)).collect()
}
