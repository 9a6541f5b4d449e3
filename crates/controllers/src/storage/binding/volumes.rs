//! Volumes: what becomes of one when its claim is gone, and its protection while it is bound.

use std::sync::Arc;
use std::time::Duration;

use csi::local_path;
use informer::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{Binder, PROVISIONED_BY, without};
use crate::toolkit::controller::Reconcile;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// The loop over volumes.
pub(super) struct Volumes(pub(super) Arc<Binder>);

impl Reconcile for Volumes {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let binder = &self.0;
        let Some(volume) = binder.volumes.get(key) else { return Ok(None) };
        let api: Api<PersistentVolume> = Api::all(binder.context.client.clone());
        let spec = volume.spec.clone().unwrap_or_default();
        let claim = spec.claim_ref.as_ref().and_then(|r| {
            let claim = binder.claims.get(&Key::new(r.namespace.as_deref()?, r.name.as_deref()?))?;
            (r.uid.is_none() || r.uid == claim.uid()).then_some(claim)
        });
        if volume.metadata.deletion_timestamp.is_some() {
            if claim.is_none() && volume.finalizers().iter().any(|f| f == VOLUME_PROTECTION) {
                let patch = json!({"metadata": {"finalizers": without(volume.finalizers(), VOLUME_PROTECTION)}});
                return ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
                    .map(|()| None);
            }
            return Ok(None);
        }
        match (&spec.claim_ref, claim) {
            (None, _) => set_volume_phase(&binder.context, &volume, "Available").await.map(|()| None),
            (Some(reference), None) if reference.uid.is_some() => {
                // The cache may be behind a claim that was just made: ask the API before anything is let go.
                let (namespace, name) =
                    (reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default());
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(binder.context.client.clone(), &namespace);
                if claims.get_opt(&name).await?.is_some_and(|c| c.uid() == reference.uid) {
                    return Ok(None);
                }
                let failed = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed");
                if failed {
                    return Ok(None);
                }
                set_volume_phase(&binder.context, &volume, "Released").await?;
                // Volumes of others are deleted by those.
                reclaim(&binder.context, &volume).await.map(|()| None)
            }
            _ => Ok(None),
        }
    }
}

pub(super) async fn set_volume_phase(context: &Context, volume: &PersistentVolume, phase: &str) -> Result {
    if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
        return Ok(());
    }
    let status = PersistentVolumeStatus {
        phase: Some(phase.into()),
        last_phase_transition_time: Some(Time(apimachinery::clock::now())),
        ..volume.status.clone().unwrap_or_default()
    };
    patch_status_if_changed(context, volume, volume.status.as_ref(), &status).await.map(|_| ())
}

/// What becomes of a volume whose claim is gone. Those of others are deleted by those: of drivers, and of provisioners that say so.
async fn reclaim(context: &Context, volume: &PersistentVolume) -> Result {
    let spec = volume.spec.clone().unwrap_or_default();
    let name = volume.name_any();
    let is_others = spec.csi.is_some() || volume.annotations().contains_key(PROVISIONED_BY);
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let (reason, text) = match spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") if local_path::is_ours(volume) => {
            return ignore(api.delete(&name, &DeleteParams::default()).await, &[404]);
        }
        Some("Delete") if !is_others => {
            let why = "no deletable volume plugin matched";
            ("VolumeFailedDelete", format!("error getting deleter volume plugin for volume {name:?}: {why}"))
        }
        Some("Recycle") => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
        _ => return Ok(()),
    };
    let status =
        json!({"phase": "Failed", "message": text, "lastPhaseTransitionTime": apimachinery::clock::now_rfc3339()});
    let failed = Patch::Merge(json!({ "status": status }));
    ignore(api.patch_status(&name, &PatchParams::default(), &failed).await, &[404])?;
    context.events.warning(volume, reason, text);
    Ok(())
}
