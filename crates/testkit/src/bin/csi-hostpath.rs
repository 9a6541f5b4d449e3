//! A storage driver for tests: its volumes are folders, or files behind loop devices, of the node that it runs on. It speaks CSI to
//! the kubelet, and does beside that what drivers' sidecars do (provisioner, attacher, resizer, snapshotter).
//!
//! Every call of the kubelet is written to `calls` in its data folder, so that tests see what was asked.

#![allow(clippy::disallowed_methods, reason = "volumes hold what the tests write to them")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use csi::registration::registration_server::{Registration, RegistrationServer};
use csi::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use csi::snapshots::VolumeSnapshotContent;
use csi::v1::node_server::{Node, NodeServer};
use csi::v1::node_service_capability::rpc::Type as Ability;
use csi::v1::node_service_capability::{Rpc, Type};
use csi::v1::volume_capability::AccessType;
use csi::v1::*;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// How often the API is looked at: a driver for tests may.
const ROUND: Duration = Duration::from_millis(100);

struct Driver {
    name: String,
    node: String,
    /// Where the kubelet finds the socket.
    endpoint: String,
    data: PathBuf,
    /// Volumes that the node may have.
    most: i64,
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

impl Driver {
    fn note(&self, call: &str, about: impl std::fmt::Display) {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.data.join("calls"));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{call} {about}");
        }
    }

    fn volume(&self, handle: &str) -> PathBuf {
        self.data.join("volumes").join(handle)
    }

    fn snapshot(&self, handle: &str) -> PathBuf {
        self.data.join("snapshots").join(handle)
    }

    /// The loop device of a volume's file, made if there is none.
    fn device(&self, handle: &str) -> Result<String, Status> {
        let file = self.volume(handle).join("image").display().to_string();
        let list = || -> Result<Option<String>, Status> {
            // losetup shows but the beginning of long names.
            let all = std::fs::read_dir("/sys/block").map_err(failed)?.flatten();
            let backed = |block: &std::fs::DirEntry| {
                let by = std::fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
                by.trim_end() == file
            };
            let mut found = all.into_iter().filter(backed);
            Ok(found.next().map(|block| format!("/dev/{}", block.file_name().to_string_lossy())))
        };
        if let Some(device) = list()? {
            return Ok(device);
        }
        let output = Command::new("busybox").args(["losetup", "-f", &file]).output().map_err(failed)?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr)));
        }
        list()?.ok_or_else(|| failed("the loop device isn't there"))
    }
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
    let is_mounted = std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| mounts.lines().any(|l| l.split(' ').nth(4) == target.to_str()));
    if is_mounted {
        return Ok(());
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

fn unbind(target: &Path) -> Result<(), Status> {
    match umount2(target, MntFlags::empty()) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    matches!(capability.and_then(|c| c.access_type.as_ref()), Some(AccessType::Block(_)))
}

/// What is worth a line of a request.
fn about(values: &std::collections::HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = values.iter().collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.note(
            "stage",
            format!("{} {} {}", request.volume_id, about(&request.publish_context), about(&request.secrets)),
        );
        if is_block(request.volume_capability.as_ref()) {
            self.device(&request.volume_id)?;
        } else {
            bind(&self.volume(&request.volume_id), Path::new(&request.staging_target_path), false)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id);
        unbind(Path::new(&request.staging_target_path))?;
        if self.volume(&request.volume_id).join("image").exists() {
            let device = self.device(&request.volume_id)?;
            Command::new("busybox").args(["losetup", "-d", &device]).status().map_err(failed)?;
        }
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let context: std::collections::HashMap<String, String> = request.volume_context.clone();
        self.note("publish", format!("{} {}", request.volume_id, about(&context)));
        let target = Path::new(&request.target_path);
        if is_block(request.volume_capability.as_ref()) {
            std::fs::File::create(target).map_err(failed)?;
            bind(Path::new(&self.device(&request.volume_id)?), target, request.readonly)?;
            return Ok(Response::new(NodePublishVolumeResponse {}));
        }
        std::fs::create_dir_all(target).map_err(failed)?;
        let volume = self.volume(&request.volume_id);
        if context.get("csi.storage.k8s.io/ephemeral").map(String::as_str) == Some("true") {
            std::fs::create_dir_all(&volume).map_err(failed)?;
            let greeting = context.get("greeting").cloned().unwrap_or_default();
            std::fs::write(volume.join("greeting"), greeting).map_err(failed)?;
            bind(&volume, target, request.readonly)?;
        } else {
            bind(Path::new(&request.staging_target_path), target, request.readonly)?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id);
        unbind(Path::new(&request.target_path))?;
        if request.volume_id.starts_with("csi-") {
            let _ = std::fs::remove_dir_all(self.volume(&request.volume_id));
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        self.note("expand", format!("{} {bytes}", request.volume_id));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let can = [Ability::StageUnstageVolume, Ability::ExpandVolume];
        let capability = |a: Ability| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: a.into() })) };
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: can.map(capability).into() }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let segments = [("topology.hostpath.csi/node".to_string(), self.node.clone())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: format!("id-of-{}", self.node),
            max_volumes_per_node: self.most,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: csi::PLUGIN_TYPE.into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        self.note("registered", format!("{} {}", status.plugin_registered, status.error));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

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
struct Sidecars {
    driver: Arc<Driver>,
    client: Client,
}

impl Sidecars {
    async fn run(&self) {
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

fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("can't listen at {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} isn't set"));
    let kubelet = PathBuf::from(variable("KUBELET_DIR")?);
    let name = variable("DRIVER")?;
    let own = kubelet.join("plugins").join(&name);
    std::fs::create_dir_all(own.join("volumes"))?;
    let endpoint = own.join("csi.sock");
    let driver = Arc::new(Driver {
        node: variable("NODE_NAME")?,
        endpoint: endpoint.display().to_string(),
        data: own,
        most: variable("MOST").ok().and_then(|n| n.parse().ok()).unwrap_or(0),
        name: name.clone(),
    });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sidecars = Sidecars { driver: driver.clone(), client: Client::try_default().await? };
    tokio::spawn(async move { sidecars.run().await });
    let services = tonic::transport::Server::builder()
        .add_service(NodeServer::from_arc(driver.clone()))
        .serve_with_incoming(listen(&endpoint)?);
    let registration = tonic::transport::Server::builder()
        .add_service(RegistrationServer::from_arc(driver))
        .serve_with_incoming(listen(&kubelet.join("plugins_registry").join(format!("{name}-reg.sock")))?);
    tokio::try_join!(services, registration)?;
    Ok(())
}
