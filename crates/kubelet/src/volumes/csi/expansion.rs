//! CSI volumes that have grown: their file systems are grown, too, and their claims say so.

use std::collections::BTreeMap;
use std::time::Duration;

use ::csi::v1::{CapacityRange, NodeExpandVolumeRequest};
use informer::Selection;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::volumes::{call, step};
use super::{Csi, Source};
use crate::volumes::VolumeError;

/// How long after a volume has grown its driver's resizer may still say that this is to come.
const RESIZER_TIMEOUT: Duration = Duration::from_secs(30);

impl Csi {
    /// Makes the file system in a volume that has grown as large as the volume, and says so in the claim.
    ///
    /// # Errors
    /// The driver refuses, or the API the claim's status.
    pub async fn expand(
        &self,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        source: &Source,
    ) -> Result<(), VolumeError> {
        let size = |map: Option<&BTreeMap<_, Quantity>>| {
            let quantity = map.and_then(|m| m.get("storage"))?;
            Some((quantity.0.parse::<apimachinery::Quantity>().ok()?.value(), quantity.clone()))
        };
        let has = |claim: &PersistentVolumeClaim| size(claim.status.as_ref()?.capacity.as_ref());
        let wanted = size(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()));
        let lacks = |claim: &PersistentVolumeClaim| {
            wanted.clone().filter(|(wanted, _)| has(claim).is_some_and(|(has, _)| has < *wanted))
        };
        let Some((wanted, quantity)) = lacks(claim) else { return Ok(()) };
        let _lock = self.drivers.lock(&source.driver, &source.handle).await;
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default());
        // Another pod of the claim may have seen to it meanwhile.
        if lacks(&api.get(&claim.name_any()).await?).is_none() {
            return Ok(());
        }
        let mut driver = self.drivers.find(&source.driver)?;
        if driver.capabilities.expand {
            let stages = driver.capabilities.stage;
            let request = NodeExpandVolumeRequest {
                volume_id: source.handle.clone(),
                volume_path: source.target(&self.config, &pod.uid().unwrap_or_default()).display().to_string(),
                capacity_range: Some(CapacityRange { required_bytes: wanted, limit_bytes: 0 }),
                staging_target_path: if stages {
                    source.staged(&self.config).display().to_string()
                } else {
                    String::new()
                },
                volume_capability: Some(source.capability(&driver, None)),
                secrets: self.driver_secret(source.expand_secret.as_ref()).await?,
            };
            call(driver.node.node_expand_volume(request)).await.map_err(step("NodeExpandVolume"))?;
        }
        report_expansion(&api, &claim.name_any(), Some(&quantity)).await?;
        tasks::spawn("csi-resize-condition", clear_resize_pending(api, claim.name_any()));
        self.events.normal(pod, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume");
        Ok(())
    }
}

/// A resizer first says that the volume is larger, and then that its file system isn't yet; we may have been faster.
async fn clear_resize_pending(api: Api<PersistentVolumeClaim>, name: String) {
    let is_pending = |claim: Option<PersistentVolumeClaim>| {
        let conditions = claim.and_then(|c| c.status?.conditions).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "FileSystemResizePending").then_some(())
    };
    let waiting =
        informer::wait_until(api.clone().into_client(), Selection::named(api.resource_url(), &name), is_pending);
    if let Ok(()) = tokio::time::timeout(RESIZER_TIMEOUT, waiting).await
        && let Err(error) = report_expansion(&api, &name, None).await
    {
        tracing::warn!(claim = name, %error, "failed to update status.capacity of a claim after its expansion");
    }
}

/// Says that a claim's file system is as large as its volume.
async fn report_expansion(
    api: &Api<PersistentVolumeClaim>,
    name: &str,
    size: Option<&Quantity>,
) -> Result<(), VolumeError> {
    let mut status = json!({"conditions": null, "allocatedResourceStatuses": null});
    if let Some(size) = size {
        status["capacity"] = json!({ "storage": size });
    }
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
