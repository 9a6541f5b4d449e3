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

/// The annotation that named the class before there was a field for it. It counts before the field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The class that a claim names; empty if it wants none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    annotated.or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or_default()
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
    if claim_class(claim).unwrap_or_default() != volume_class(volume) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn claims_and_volumes_name_their_class_by_annotation_too() {
        let annotated = |mut object: Value, class: &str| {
            object["metadata"] = json!({"name": "x", "annotations": {CLASS_ANNOTATION: class}});
            object
        };
        let claim = json!({"metadata": {"name": "x"}, "spec": {"storageClassName": "new"}});
        let volume = claim.clone();
        let fits = |claim: &Value, volume: &Value| {
            let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
            let volume: PersistentVolume = serde_json::from_value(volume.clone()).unwrap();
            volume_satisfies(&claim, &volume)
        };
        assert_eq!(fits(&claim, &volume), Ok(()));
        // The annotation counts before the field.
        let (old_claim, old_volume) = (annotated(claim.clone(), "old"), annotated(volume.clone(), "old"));
        assert_eq!(fits(&old_claim, &old_volume), Ok(()));
        assert_eq!(fits(&old_claim, &volume), Err("storageClassName does not match".into()));
        assert_eq!(fits(&claim, &old_volume), Err("storageClassName does not match".into()));
    }
}
