//! What drivers' sidecars do.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use csi::snapshots::VolumeSnapshotContent;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::Driver;

/// How often the API is looked at: a driver for tests may.
const ROUND: Duration = Duration::from_millis(100);

fn size(map: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    let quantity = map.and_then(|m| m.get("storage")).and_then(|q| q.0.parse::<apimachinery::Quantity>().ok());
    quantity.map_or(0, apimachinery::Quantity::value)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").args(["-a", "--"]).args([from, to]).status()?;
    anyhow::ensure!(status.success(), "{} can't be copied", from.display());
    Ok(())
}

/// What sidecars do.
pub(super) struct Sidecars {
    pub driver: Arc<Driver>,
    pub client: Client,
}

impl Sidecars {
    pub(super) async fn run(&self) {
        loop {
            for done in [
                self.provision().await,
                self.remove().await,
                self.attach().await,
                self.resize().await,
                self.take().await,
            ] {
                if let Err(error) = done {
                    eprintln!("csi-hostpath: {error:#}");
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn provision(&self) -> anyhow::Result<()> {
        let claims: Api<PersistentVolumeClaim> = Api::all(self.client.clone());
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        for claim in claims.list(&ListParams::default()).await? {
            let asked = claim.annotations().get("volume.kubernetes.io/storage-provisioner");
            let spec = claim.spec.clone().unwrap_or_default();
            if asked != Some(&self.driver.name) || spec.volume_name.is_some() {
                continue;
            }
            let class = spec.storage_class_name.clone().unwrap_or_default();
            let class = Api::<StorageClass>::all(self.client.clone()).get(&class).await?;
            let name = format!("pvc-{}", claim.uid().unwrap_or_default());
            let folder = self.driver.volume(&name);
            let namespace = claim.namespace().unwrap_or_default();
            if !folder.exists() {
                let partial = self.driver.volume(&format!("{name}.partial"));
                let _ = std::fs::remove_dir_all(&partial);
                match spec.data_source.as_ref().map(|s| (s.kind.as_str(), s.name.as_str())) {
                    Some(("VolumeSnapshot", snapshot)) => {
                        let Some(handle) = self.handle_of(&namespace, snapshot).await? else { continue };
                        copy(&self.driver.snapshot(&handle), &partial)?;
                    }
                    _ => std::fs::create_dir_all(&partial)?,
                }
                if spec.volume_mode.as_deref() == Some("Block") {
                    std::fs::File::create(partial.join("image"))?
                        .set_len(size(spec.resources.as_ref().and_then(|r| r.requests.as_ref())) as u64)?;
                }
                std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o777))?;
                std::fs::rename(partial, folder)?;
            }
            let volume = json!({"metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": self.driver.name}},
                "spec": {"capacity": spec.resources.and_then(|r| r.requests), "accessModes": spec.access_modes,
                    "volumeMode": spec.volume_mode, "storageClassName": class.name_any(),
                    "persistentVolumeReclaimPolicy": class.reclaim_policy,
                    "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": namespace,
                        "name": claim.name_any(), "uid": claim.uid()},
                    "csi": {"driver": self.driver.name, "volumeHandle": name, "fsType": "ext4",
                        "volumeAttributes": {"made-by": "csi-hostpath"}},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "topology.hostpath.csi/node", "operator": "In", "values": [self.driver.node]}]}]}}}});
            match volumes.create(&PostParams::default(), &serde_json::from_value(volume)?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    async fn handle_of(&self, namespace: &str, snapshot: &str) -> anyhow::Result<Option<String>> {
        let snapshots: Api<csi::snapshots::VolumeSnapshot> = Api::namespaced(self.client.clone(), namespace);
        let status = snapshots.get(snapshot).await?.status.unwrap_or_default();
        let Some(content) = status.bound_volume_snapshot_content_name.filter(|_| status.ready_to_use == Some(true))
        else {
            return Ok(None);
        };
        let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        Ok(contents.get(&content).await?.status.and_then(|s| s.snapshot_handle))
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        for volume in volumes.list(&ListParams::default()).await? {
            let ours = volume.annotations().get("pv.kubernetes.io/provisioned-by") == Some(&self.driver.name);
            let released = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Released");
            let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
            if ours && released && policy == Some("Delete") && volume.metadata.deletion_timestamp.is_none() {
                let _ = std::fs::remove_dir_all(self.driver.volume(&volume.name_any()));
                volumes.delete(&volume.name_any(), &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }

    async fn attach(&self) -> anyhow::Result<()> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let finalizer = format!("external-attacher/{}", self.driver.name.replace('.', "-"));
        for attachment in api.list(&ListParams::default()).await? {
            if attachment.spec.attacher != self.driver.name {
                continue;
            }
            let name = attachment.name_any();
            let attached = attachment.status.as_ref().is_some_and(|s| s.attached);
            let held = attachment.finalizers().contains(&finalizer);
            if attachment.metadata.deletion_timestamp.is_some() && held {
                self.driver.note("detach", attachment.spec.source.persistent_volume_name.clone().unwrap_or_default());
                let patch = json!({"metadata": {"finalizers": []}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            } else if !held {
                let patch = json!({"metadata": {"finalizers": [finalizer]}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            } else if !attached {
                let status = json!({"status": {"attached": true, "attachmentMetadata": {"slot": "7"}}});
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            }
        }
        Ok(())
    }

    async fn resize(&self) -> anyhow::Result<()> {
        let claims: Api<PersistentVolumeClaim> = Api::all(self.client.clone());
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        for claim in claims.list(&ListParams::default()).await? {
            let Some(name) = claim.spec.as_ref().and_then(|s| s.volume_name.clone()) else { continue };
            let Some(volume) = volumes.get_opt(&name).await? else { continue };
            if volume.annotations().get("pv.kubernetes.io/provisioned-by") != Some(&self.driver.name) {
                continue;
            }
            let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.clone());
            let capacity = volume.spec.as_ref().and_then(|s| s.capacity.clone());
            if size(requests.as_ref()) > size(capacity.as_ref())
                && claim.status.as_ref().is_some_and(|s| s.capacity.is_some())
            {
                let patch = json!({"spec": {"capacity": requests}});
                volumes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                let own: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default());
                let status = json!({"status": {"conditions": [{"type": "FileSystemResizePending", "status": "True"}]}});
                own.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
            }
        }
        Ok(())
    }

    /// Takes snapshots, and removes those that aren't wanted any more.
    async fn take(&self) -> anyhow::Result<()> {
        const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
        let api: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        for content in api.list(&ListParams::default()).await? {
            if content.spec.driver != self.driver.name {
                continue;
            }
            let name = content.name_any();
            let handle = format!("snap-{}", content.uid().unwrap_or_default());
            let status = content.status.clone().unwrap_or_default();
            if content.metadata.deletion_timestamp.is_some() {
                let wanted = content.spec.deletion_policy == "Delete";
                let marked =
                    content.annotations().contains_key("snapshot.storage.kubernetes.io/volumesnapshot-being-deleted");
                if wanted && marked && content.finalizers().iter().any(|f| f == BOUND) {
                    let _ = std::fs::remove_dir_all(self.driver.snapshot(&handle));
                    let patch = json!({"metadata": {"finalizers": []}});
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
                continue;
            }
            if status.ready_to_use == Some(true) {
                continue;
            }
            let (handle, bytes) = match (&content.spec.source.volume_handle, &content.spec.source.snapshot_handle) {
                (Some(volume), _) => {
                    std::fs::create_dir_all(self.driver.data.join("snapshots"))?;
                    copy(&self.driver.volume(volume), &self.driver.snapshot(&handle))?;
                    let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
                    (handle, size(volumes.get(volume).await?.spec.and_then(|s| s.capacity).as_ref()))
                }
                (None, Some(there)) => (there.clone(), 0),
                (None, None) => continue,
            };
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as i64;
            let mut status: Value = json!({"snapshotHandle": handle, "creationTime": now, "readyToUse": true});
            if bytes > 0 {
                status["restoreSize"] = bytes.into();
            }
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await?;
        }
        Ok(())
    }
}
