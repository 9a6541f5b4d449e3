//! The PersistentVolumeClaims of a pod's volumes.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::pod::Pod;

/// A PersistentVolumeClaim of a volume.
#[derive(Debug)]
pub struct Claim<'a> {
    /// Name of the claim.
    pub name: String,
    /// Name of the pod's volume that it is for.
    pub volume: String,
    /// The template of a generic ephemeral volume (KEP-1698); none for a volume that names a claim.
    pub template: Option<&'a PersistentVolumeClaimTemplate>,
}

impl Claim<'_> {
    /// Whether an existing claim with this name is the volume's: the claim of an ephemeral volume must be owned by the pod, whose uid is `uid`
    /// (upstream's `ephemeral.VolumeIsForPod`).
    pub fn belongs(&self, uid: Option<&str>, owners: &[OwnerReference]) -> bool {
        self.template.is_none() || owners.iter().any(|o| o.controller == Some(true) && Some(o.uid.as_str()) == uid)
    }
}

/// The claim of one volume of the pod `pod`, if it has one.
pub fn claim_of<'a>(
    pod: &str,
    volume: &str,
    claim: Option<&PersistentVolumeClaimVolumeSource>,
    ephemeral: Option<&'a EphemeralVolumeSource>,
) -> Option<Claim<'a>> {
    if let Some(source) = claim {
        return Some(Claim { name: source.claim_name.clone(), volume: volume.into(), template: None });
    }
    let template = ephemeral?.volume_claim_template.as_ref()?;
    Some(Claim { name: format!("{pod}-{volume}"), volume: volume.into(), template: Some(template) })
}

/// All claims of a pod.
pub fn claims(pod: &Pod) -> Vec<Claim<'_>> {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let volumes = pod.spec.iter().flat_map(|s| &s.volumes);
    volumes.filter_map(|v| claim_of(name, &v.name, v.persistent_volume_claim.as_ref(), v.ephemeral.as_ref())).collect()
}
