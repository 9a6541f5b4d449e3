//! Whether a claim may have a volume, by what both say of themselves (upstream's `FindMatchingVolume`).

use std::collections::BTreeMap;

use apimachinery::{LabelSelector, Quantity as Number};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;

/// The amount of storage that a list of resources names; nothing if it names none.
pub fn storage_amount(map: Option<&BTreeMap<String, Quantity>>) -> Number {
    map.and_then(|m| m.get("storage")).and_then(|q| q.0.parse().ok()).unwrap_or_default()
}

/// Whether a volume has what a claim asks for.
///
/// # Errors
/// What it hasn't, in upstream's words (`checkVolumeSatisfyClaim`).
pub fn volume_satisfies(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), String> {
    let (Some(wanted), Some(offered)) = (&claim.spec, &volume.spec) else { return Err("it says nothing".into()) };
    let class = |c: &Option<String>| c.clone().unwrap_or_default();
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    let asked = storage_amount(wanted.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(format!("the volume is marked for deletion {:?}", volume.name_any()));
    }
    if storage_amount(offered.capacity.as_ref()) < asked {
        return Err("requested PV is too small".into());
    }
    if class(&wanted.storage_class_name) != class(&offered.storage_class_name) {
        return Err("storageClassName does not match".into());
    }
    if class(&wanted.volume_attributes_class_name) != class(&offered.volume_attributes_class_name) {
        return Err("volumeAttributesClassName does not match".into());
    }
    if mode(&wanted.volume_mode) != mode(&offered.volume_mode) {
        return Err("incompatible volumeMode".into());
    }
    if !wanted.access_modes.iter().flatten().all(|m| offered.access_modes.iter().flatten().any(|o| o == m)) {
        return Err("incompatible accessMode".into());
    }
    Ok(())
}

/// Whether a volume would do for a claim that names none: it has what the claim asks for and selects, and is free or reserved for it.
pub fn volume_fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wanted), Some(offered)) = (&claim.spec, &volume.spec) else { return false };
    let selector = wanted.selector.as_ref().and_then(|selector| serde_json::to_value(selector).ok());
    let selector = selector.and_then(|selector| LabelSelector::from_json(&selector).ok());
    let reserved = match &offered.claim_ref {
        // What is to be made of something isn't found lying about.
        None => wanted.data_source.is_none(),
        Some(r) => {
            r.namespace == claim.namespace()
                && r.name.as_deref() == Some(&claim.name_any())
                && (r.uid.is_none() || r.uid == claim.uid())
        }
    };
    reserved
        && volume_satisfies(claim, volume).is_ok()
        && selector.is_none_or(|s| s.matches_map(volume.metadata.labels.as_ref()))
}

/// The order in which volumes that fit are taken: one that is reserved first, then the smallest.
pub fn volume_rank(volume: &PersistentVolume) -> (bool, Number) {
    let spec = volume.spec.as_ref();
    (spec.is_none_or(|s| s.claim_ref.is_none()), storage_amount(spec.and_then(|s| s.capacity.as_ref())))
}
