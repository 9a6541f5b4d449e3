//! PersistentVolumeClaimResize: a claim may ask for more only if its class can give it.

use api::kinds;
use apimachinery::{ObjectExt as _, Quantity, Status};
use serde_json::Value;

use super::super::AdmissionAttributes;
use crate::ApiServer;
use crate::registry::object_key;

/// Refuses a claim that asks for more than it may.
///
/// # Errors
/// 403 when the claim isn't bound, or its StorageClass doesn't allow expansion.
pub fn check(server: &ApiServer, attributes: &AdmissionAttributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind;
    let Some(old) = attributes.old else { return Ok(()) };
    if kind != kinds::PERSISTENT_VOLUME_CLAIMS || attributes.subresource.is_some() {
        return Ok(());
    }
    let size = |claim: &Value| {
        let text = claim.str_at(&["spec", "resources", "requests", "storage"]);
        text.parse::<Quantity>().unwrap_or_default()
    };
    if size(object) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(kind.forbidden(object.name(), why));
    if old.str_at(&["status", "phase"]) != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = object_key("", kinds::storage_class_of(object));
    let class = server.cache.of(kinds::STORAGE_CLASSES).get(&class).map(|c| c.parse());
    if class.is_some_and(|c| c["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}
