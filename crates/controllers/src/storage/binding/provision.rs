//! Volumes for claims that no volume fits: made for `local-path`, left to other provisioners.

use csi::local_path::{CONTENT_SOURCE_ANNOTATION, ContentSource, FINALIZER, NODE_KEY, PROVISIONER};
use informer::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::super::origin;
use super::claims::deselect;
use super::{Binder, PROVISIONED_BY};
use crate::toolkit::{Context, Result, ignore};

/// The provisioner of classes whose volumes an administrator makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

pub(super) async fn ensure_class(context: Context) {
    let api: Api<StorageClass> = Api::all(context.client.clone());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true});
    let Ok(class) = serde_json::from_value(class) else { return };
    if let Err(error) = ignore(api.create(&PostParams::default(), &class).await, &[409]) {
        tracing::warn!(%error, "failed to create the StorageClass local-path");
    }
}

impl Binder {
    /// Has a volume made by the provisioner of a class. `waits` is whether that is done only once the scheduler has selected a node.
    pub(super) async fn request_volume(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        waits: bool,
        selected: Option<String>,
    ) -> Result {
        if class.provisioner == NO_PROVISIONER && waits && selected.is_some() {
            // Another claim was bound to the volume that the scheduler saw there: it has to look again.
            return deselect(&self.context, claim).await;
        }
        if class.provisioner != PROVISIONER {
            let due = !waits || selected.is_some();
            return if due {
                leave_to(&self.context, claim, &class.provisioner).await
            } else {
                self.record_waiting(claim)
            };
        }
        if let Some(source) = claim.spec.as_ref().and_then(|s| s.data_source.as_ref()) {
            return match origin::find(&self.context, self, claim, source).await? {
                Ok(found) => self.provision(claim, class, &found.node, Some(found.origin)).await,
                Err(message) => {
                    self.context.events.warning(claim, "ProvisioningFailed", message);
                    Ok(())
                }
            };
        }
        match selected {
            Some(node) => self.provision(claim, class, &node, None).await,
            None if waits => self.record_waiting(claim),
            None => {
                let text = "the provisioner timonel.io/local-path needs volumeBindingMode: WaitForFirstConsumer, as its volumes are on one node";
                self.context.events.warning(claim, "ProvisioningFailed", text);
                Ok(())
            }
        }
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        node: &str,
        origin: Option<ContentSource>,
    ) -> Result {
        let Some(target) = self.nodes.get(&Key::new("", node)) else {
            self.context.events.warning(claim, "ProvisioningFailed", format!("the selected node {node} is gone"));
            return deselect(&self.context, claim).await;
        };
        let Some(folder) = target.annotations().get("timonel.io/storage-path") else {
            self.context.events.warning(
                claim,
                "ProvisioningFailed",
                format!("node {node} doesn't say where its volumes are"),
            );
            return Ok(());
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        let hostname = target.labels().get("kubernetes.io/hostname").cloned().unwrap_or_else(|| node.into());
        let path = format!("{folder}/{name}_{}_{}", claim.namespace().unwrap_or_default(), claim.name_any());
        let mut annotations = json!({PROVISIONED_BY: PROVISIONER, NODE_KEY: node});
        if let Some(origin) = origin {
            annotations[CONTENT_SOURCE_ANNOTATION] = origin.to_string().into();
        }
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "finalizers": [FINALIZER], "annotations": annotations},
            "spec": {"capacity": spec.resources.and_then(|r| r.requests), "accessModes": spec.access_modes,
                     "volumeMode": spec.volume_mode, "storageClassName": class.name_any(),
                     "persistentVolumeReclaimPolicy": class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into()),
                     "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace(),
                                  "name": claim.name_any(), "uid": claim.uid()},
                     "local": {"path": path},
                     "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                         [{"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}]}]}}}});
        let volume: PersistentVolume = serde_json::from_value(volume).map_err(kube::Error::SerdeError)?;
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            other => other.map(|_| ())?,
        }
        self.context.events.normal(claim, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
        Ok(())
    }
}

/// Annotates a claim that waits for an external provisioner, which finds it by that.
async fn leave_to(context: &Context, claim: &PersistentVolumeClaim, provisioner: &str) -> Result {
    const ASKED: [&str; 2] =
        ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
    if ASKED.iter().any(|key| claim.annotations().get(*key).map(String::as_str) != Some(provisioner)) {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
        let annotations = json!({ASKED[0]: provisioner, ASKED[1]: provisioner});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])?;
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    context.events.normal(claim, "ExternalProvisioning", text);
    Ok(())
}
