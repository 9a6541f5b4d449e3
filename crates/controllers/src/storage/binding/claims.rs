//! Claims: each is bound to a volume, and protected while a pod uses it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use informer::{Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::super::expand;
use super::volumes::set_volume_phase;
use super::{Binder, uses, without};
use crate::toolkit::controller::Reconcile;
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The loop over claims.
pub(super) struct Claims(pub(super) Arc<Binder>);

impl Reconcile for Claims {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let binder = &self.0;
        let Some(claim) = binder.claims.get(key) else { return Ok(None) };
        if claim.metadata.deletion_timestamp.is_some() {
            return binder.release_claim(&claim).await.map(|()| None);
        }
        match claim.spec.as_ref().and_then(|s| s.volume_name.clone()) {
            Some(volume) => binder.bind_to(&claim, &volume).await,
            None => binder.bind_to_any(&claim).await,
        }
        .map(|()| None)
    }
}

impl Binder {
    /// Binds a claim to the volume that it names.
    async fn bind_to(&self, claim: &PersistentVolumeClaim, name: &str) -> Result {
        let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
        let Some(volume) = self.volumes.get(&Key::new("", name)) else {
            if phase != "Bound" {
                return Ok(());
            }
            let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            self.context.events.warning(claim, "ClaimLost", text);
            return set_phase(&self.context, claim, "Lost", None).await;
        };
        // A volume that is held for the claim is what its user wanted; any other must do for it.
        let is_held = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some());
        if phase == "Pending"
            && !is_held
            && let Err(why) = placement::volume_satisfies(claim, &volume)
        {
            let text = format!("Cannot bind to requested volume {name:?}: {why}");
            self.context.events.warning(claim, "VolumeMismatch", text);
            return Ok(());
        }
        self.bind(claim, &volume).await
    }

    /// Binds a claim to the best volume that there is, or has one provisioned.
    async fn bind_to_any(&self, claim: &PersistentVolumeClaim) -> Result {
        let mut candidates: Vec<_> =
            self.volumes.list().into_iter().filter(|v| placement::volume_fits(claim, v)).collect();
        candidates.sort_by_cached_key(|volume| placement::volume_rank(volume));
        let class = self.classes.get(&Key::new("", placement::claim_class(claim).unwrap_or_default()));
        let waits = class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        let selected = claim.annotations().get(SELECTED_NODE).cloned();
        if let Some(node) = selected.as_ref().filter(|_| waits).and_then(|name| self.nodes.get(&Key::new("", name))) {
            candidates.retain(|volume| is_usable_on(volume, &node));
        }
        let reserved = candidates.first().is_some_and(|v| v.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()));
        if let Some(volume) = candidates.first().filter(|_| !waits || reserved || selected.is_some()) {
            return self.bind(claim, volume).await;
        }
        match class {
            Some(class) => self.request_volume(claim, &class, waits, selected).await,
            None => self.without_class(claim).await,
        }
    }

    pub(super) fn record_waiting(&self, claim: &PersistentVolumeClaim) -> Result {
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        let waits = |pod: &Arc<Pod>| {
            let is_placed = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
            !is_placed && !pod.is_over() && informer::claims(pod).iter().any(|c| c.name == name)
        };
        let mut pods: Vec<String> =
            self.pods.list_in(&namespace).iter().filter(|pod| waits(pod)).map(|pod| pod.name_any()).collect();
        pods.sort();
        if !pods.is_empty() {
            let plural = if pods.len() > 1 { "s" } else { "" };
            let text = format!("waiting for pod{plural} {} to be scheduled", pods.join(","));
            self.context.events.normal(claim, "WaitForPodScheduled", text);
            return Ok(());
        }
        let text = "waiting for first consumer to be created before binding";
        self.context.events.normal(claim, "WaitForFirstConsumer", text);
        Ok(())
    }

    /// A claim whose class isn't there, or that has none: it gets the default one as soon as there is one.
    async fn without_class(&self, claim: &PersistentVolumeClaim) -> Result {
        const MARKS: [&str; 2] =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        let is_default = |class: &Arc<StorageClass>| {
            MARKS.iter().any(|mark| class.annotations().get(*mark).map(String::as_str) == Some("true"))
        };
        match placement::claim_class(claim) {
            None => {
                let defaults = self.classes.list().into_iter().filter(|c| is_default(c));
                // Of several the newest, and of equals the first by name.
                let age = |c: &Arc<StorageClass>| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
                let Some(class) = defaults.max_by_key(|c| (age(c), Reverse(c.name_any()))) else {
                    let text = "no persistent volumes available for this claim and no storage class is set";
                    self.context.events.normal(claim, "FailedBinding", text);
                    return Ok(());
                };
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.context.client.clone(), &claim.namespace().unwrap_or_default());
                let patch = Patch::Merge(json!({"spec": {"storageClassName": class.name_any()}}));
                ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])
            }
            Some("") => {
                let text = "no persistent volumes available for this claim and no storage class is set";
                self.context.events.normal(claim, "FailedBinding", text);
                Ok(())
            }
            Some(name) => {
                let text = format!("storageclass.storage.k8s.io {name:?} not found");
                self.context.events.warning(claim, "ProvisioningFailed", text);
                Ok(())
            }
        }
    }

    /// Ties a claim and a volume together: first the volume, so that no other claim gets it, then the claim.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result {
        let spec = volume.spec.clone().unwrap_or_default();
        let holder = spec.claim_ref.as_ref().and_then(|r| r.uid.clone());
        if holder.is_some() && holder != claim.uid() {
            if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound") {
                let text = "Two claims are bound to the same volume, this one is bound incorrectly";
                self.context.events.warning(claim, "ClaimMisbound", text);
                return set_phase(&self.context, claim, "Lost", None).await;
            }
            let text = format!("volume {:?} already bound to a different claim.", volume.name_any());
            self.context.events.warning(claim, "FailedBinding", text);
            return Ok(());
        }
        if holder.is_none() {
            let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
            let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace(),
                                   "name": claim.name_any(), "uid": claim.uid()});
            let patch =
                json!({"metadata": {"resourceVersion": volume.resource_version()}, "spec": {"claimRef": reference}});
            let uid = claim.uid();
            api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
            let key = volume.key();
            self.volumes
                .wait_for(&key, |v| v.and_then(|v| v.spec.as_ref()?.claim_ref.as_ref()?.uid.clone()) == uid)
                .await;
        }
        let claim_spec = claim.spec.clone().unwrap_or_default();
        if claim_spec.volume_name.is_none() {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.context.client.clone(), &claim.namespace().unwrap_or_default());
            let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}},
                               "spec": {"volumeName": volume.name_any()}});
            ignore(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
        }
        set_volume_phase(&self.context, volume, "Bound").await?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if bound {
            expand::grow(&self.context, claim, volume).await
        } else {
            set_phase(&self.context, claim, "Bound", Some(volume)).await
        }
    }

    /// A claim that is to be deleted goes once no pod uses it.
    async fn release_claim(&self, claim: &Arc<PersistentVolumeClaim>) -> Result {
        let namespace = claim.namespace().unwrap_or_default();
        let name = claim.name_any();
        let used = self.pods.list_in(&namespace).iter().any(|p| uses(p, &name));
        if used || !claim.finalizers().iter().any(|f| f == CLAIM_PROTECTION) {
            return Ok(());
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = json!({"metadata": {"finalizers": without(claim.finalizers(), CLAIM_PROTECTION)}});
        ignore(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
    }
}

/// Whether a volume may be used on a node.
fn is_usable_on(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    affinity.is_none_or(|selector| placement::node_selector_matches(selector, node))
}

/// Takes back the node that the scheduler chose for a claim, so that it chooses again.
pub(super) async fn deselect(context: &Context, claim: &PersistentVolumeClaim) -> Result {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: null}}}));
    ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])
}

async fn set_phase(
    context: &Context,
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result {
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some(phase.into());
    if let Some(spec) = volume.and_then(|v| v.spec.as_ref()) {
        status.capacity.clone_from(&spec.capacity);
        status.access_modes.clone_from(&spec.access_modes);
    }
    patch_status_if_changed(context, claim, claim.status.as_ref(), &status).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_must_offer_all_that_the_claim_wants() {
        let claim = |size: &str, class: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": size}}}}))
            .unwrap()
        };
        let volume = |claim: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "storageClassName": "a", "capacity": {"storage": "1Gi"}, "claimRef": claim}}))
            .unwrap()
        };
        let free = volume(serde_json::Value::Null);
        assert!(placement::volume_fits(&claim("1Gi", "a"), &free));
        assert!(!placement::volume_fits(&claim("2Gi", "a"), &free));
        assert!(!placement::volume_fits(&claim("1Gi", "b"), &free));
        assert!(placement::volume_fits(&claim("1Gi", "a"), &volume(json!({"namespace": "n", "name": "c"}))));
        assert!(!placement::volume_fits(
            &claim("1Gi", "a"),
            &volume(json!({"namespace": "n", "name": "c", "uid": "other"}))
        ));
    }
}
