//! Claims that want more than they have.

use csi::local_path;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use placement::storage_amount;
use serde_json::json;

use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result};

/// Gives a bound claim the size that it asks for. Volumes of `local-path` share their disk, so this is a matter of figures; those
/// of CSI drivers are left to the driver's resizer.
///
/// # Errors
/// The API refuses the capacity of the volume or the status of the claim.
pub async fn grow(context: &Context, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result {
    let wanted = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let has = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    if has.is_none() || storage_amount(wanted) <= storage_amount(has) {
        return Ok(());
    }
    if !local_path::is_ours(volume) {
        let text = "waiting for an external controller to expand this PVC";
        context.events.normal(claim, "ExternalExpanding", text);
        return Ok(());
    }
    let size = wanted.and_then(|w| w.get("storage"));
    if storage_amount(volume.spec.as_ref().and_then(|s| s.capacity.as_ref())) < storage_amount(wanted) {
        let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
        let patch = Patch::Merge(json!({"spec": {"capacity": {"storage": size}}}));
        volumes.patch(&volume.name_any(), &PatchParams::default(), &patch).await?;
    }
    let mut status = claim.status.clone().unwrap_or_default();
    status.capacity.get_or_insert_default().extend(size.map(|size| ("storage".to_string(), size.clone())));
    patch_status_if_changed(context, claim, claim.status.as_ref(), &status).await?;
    context.events.normal(claim, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume");
    Ok(())
}
