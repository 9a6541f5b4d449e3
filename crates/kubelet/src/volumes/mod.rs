//! Volumes: what a pod's `volumes` are on this node.
//!
//! - [`projected`], [`empty_dir`], [`host_path`], [`nfs`]: types that the kubelet serves itself; [`files`] writes them, [`tokens`] gets tokens,
//!   [`pod_certificates`] certificates, [`trust_bundles`] authorities
//! - [`watch`]: ConfigMaps and Secrets are watched while volumes show them
//! - [`csi`]: storage drivers and their volumes
//! - [`local_path`]: volumes of the node's own disk, and their snapshots

pub mod csi;
mod empty_dir;
mod files;
mod host_path;
pub mod local_path;
mod nfs;
mod pod_certificates;
pub mod projected;
mod tokens;
mod trust_bundles;
pub mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use informer::Claim;
use k8s_openapi::api::core::v1::{
    Container, ImageVolumeSource, LocalVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use kube::{Api, Client, ResourceExt as _};
use runtime::inside::Rights;
use runtime::rootfs;

use crate::config::Config;
use crate::environment::downward_api::FieldError;
use crate::environment::sources::SourceError;
use crate::images::ImageManager;
use crate::state::PodDirs;
use csi::Csi;
use local_path::LocalPath;
use projected::Projector;

/// Why a volume can't be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// One volume of a pod, in the words of a `FailedMount` event.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    SetUp {
        /// The volume's name in the pod.
        volume: String,
        /// What is missing.
        source: Box<VolumeError>,
    },
    /// One volume of a pod, in the words of a `FailedUnMount` event.
    #[error("UnmountVolume.TearDown failed for volume {volume:?} : {source}")]
    TearDown {
        /// The volume's name in the pod.
        volume: String,
        /// What failed.
        source: Box<VolumeError>,
    },
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The API refuses, or doesn't answer.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// An object of the API isn't what it must be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A ConfigMap or Secret is missing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The downward API doesn't offer what is asked for.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A task that blocks was broken off.
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
    /// A call of a CSI driver failed.
    #[error("rpc error: code = {code} desc = {message}")]
    Rpc {
        /// gRPC's name of the code.
        code: String,
        /// The driver's words.
        message: String,
    },
    /// A CSI driver couldn't do one of its steps.
    #[error("{step} failed: {source}")]
    Step {
        /// `MountDevice` or `NodeExpandVolume`.
        step: &'static str,
        /// Why.
        source: Box<VolumeError>,
    },
    /// The driver of the volume isn't registered on this node.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    DriverNotFound(String),
    /// What the pod, the claim or the volume asks for can't be had.
    #[error("{0}")]
    Refused(String),
}

/// When a volume is given to the pod's `fsGroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsGroup {
    /// The volume's owner stays what it is.
    Never,
    /// At the pod's start. What containers write later is theirs, and may be very much.
    Once,
    /// Whenever the kubelet has written it anew: to be read, as no container writes to it.
    Always,
}

/// A volume that is ready for containers: a folder, a file or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it is.
    pub path: PathBuf,
    /// When it is given to the pod's group.
    pub fs_group: FsGroup,
}

/// The file, in the folder of a volume from an image, that names the image.
const IMAGE: &str = "image";

/// The id of the image that a volume of a pod shows, once it was made.
pub fn image_of(folder: &Path) -> Option<String> {
    bounded::text(folder.join(IMAGE), bounded::MAX_OWN_FILE_BYTES).ok()
}

/// The claim that a volume names, or is made for.
pub fn claim_of<'a>(pod: &Pod, volume: &'a Volume) -> Option<Claim<'a>> {
    let (claim, ephemeral) = (volume.persistent_volume_claim.as_ref(), volume.ephemeral.as_ref());
    informer::claim_of(&pod.name_any(), &volume.name, claim, ephemeral)
}

/// The volumes of a pod for which they are made ready.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its folders.
    pub dirs: &'a PodDirs,
    /// Its addresses.
    pub ips: &'a [IpAddr],
    /// Whether the pod's volumes are made ready for the first time since this process started. Later, those whose content may change are renewed.
    pub first: bool,
}

/// Makes volumes of pods.
pub struct VolumeManager {
    config: Arc<Config>,
    client: Client,
    images: Arc<ImageManager>,
    csi: Arc<Csi>,
    local_path: Arc<LocalPath>,
    /// Whether the API has said which pods this node has.
    api_synced: Arc<AtomicBool>,
}

impl VolumeManager {
    /// A manager that asks these for what their volumes need.
    pub fn new(
        config: Arc<Config>,
        client: Client,
        images: Arc<ImageManager>,
        csi: Arc<Csi>,
        local_path: Arc<LocalPath>,
        api_synced: Arc<AtomicBool>,
    ) -> Self {
        VolumeManager { config, client, images, csi, local_path, api_synced }
    }

    /// Makes all volumes of a pod, and returns where each is.
    ///
    /// # Errors
    /// [`VolumeError::SetUp`] for the first volume that can't be had.
    pub async fn prepare(&self, request: Request<'_>) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
        let mut paths = BTreeMap::new();
        let volumes = request.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        for volume in volumes {
            let ready = match self.volume(request, volume).await {
                Ok(ready) => ready,
                Err(error) => self
                    .as_before(volume, request.dirs)
                    .ok_or_else(|| VolumeError::SetUp { volume: volume.name.clone(), source: Box::new(error) })?,
            };
            apply_fs_group(request.pod, &ready, request.first).await;
            paths.insert(volume.name.clone(), ready.path);
        }
        Ok(paths)
    }

    /// Lets the CSI volumes of a pod go.
    ///
    /// # Errors
    /// [`VolumeError::TearDown`] for the first volume that its driver doesn't let go; then it is to be done again.
    pub async fn unpublish(&self, uid: &str, dirs: &PodDirs) -> Result<(), VolumeError> {
        self.csi.unpublish(uid, dirs).await
    }

    /// What an earlier process wrote of a volume, while the API hasn't answered this one.
    fn as_before(&self, volume: &Volume, dirs: &PodDirs) -> Option<Ready> {
        let path = dirs.run.join("volumes").join(&volume.name);
        let has_files = path.join("..data").exists();
        let is_cut_off = !self.api_synced.load(Ordering::Relaxed);
        (is_cut_off && has_files).then_some(Ready { path, fs_group: FsGroup::Always })
    }

    async fn volume(&self, request: Request<'_>, volume: &Volume) -> Result<Ready, VolumeError> {
        let Request { pod, dirs, ips, first } = request;
        // What the API can give again, secrets above all, stays in memory.
        let place = if volume.empty_dir.is_some() { &dirs.data } else { &dirs.run };
        let folder = place.join("volumes").join(&volume.name);
        if let Some(source) = &volume.host_path {
            let path = host_path::publish(&source.path, source.type_.as_deref().unwrap_or(""))?;
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        if let Some(source) = csi::Source::inline(pod, volume) {
            return self.csi.publish(pod, dirs, &volume.name, &source, first).await;
        }
        if let Some(source) = &volume.nfs {
            return nfs::publish(source, &[], false, folder).await;
        }
        if let Some(wanted) = claim_of(pod, volume) {
            return self.claim(request, volume, &wanted).await;
        }
        if let Some(source) = &volume.empty_dir {
            empty_dir::publish(&self.config, pod, source, &folder)?;
            return Ok(Ready { path: folder, fs_group: FsGroup::Once });
        }
        std::fs::create_dir_all(&folder)?;
        if let Some(source) = &volume.image {
            let path = self.image_volume(pod, volume, source, folder).await?;
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        let projector = Projector { config: &self.config, client: &self.client, pod, ips, run: &dirs.run };
        let Some(files) = projector.files(volume, &folder).await? else {
            return Err(VolumeError::Refused("its type isn't served by this version of timonel".into()));
        };
        files::write_atomically(&folder, &files)?;
        Ok(Ready { path: folder, fs_group: FsGroup::Always })
    }

    /// The content of an image (KEP-4639). What containers might write to it is thrown away, as their mounts are read-only.
    async fn image_volume(
        &self,
        pod: &Pod,
        volume: &Volume,
        source: &ImageVolumeSource,
        folder: PathBuf,
    ) -> Result<PathBuf, VolumeError> {
        let root = folder.join("root");
        if rootfs::is_mounted(&root) {
            return Ok(root);
        }
        let asked = Container {
            name: volume.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let missing = |missing: crate::images::ImagePullError| {
            VolumeError::Refused(format!("{}: {}", missing.reason.as_str(), missing.message))
        };
        let image = self.images.ensure_image(pod, &asked).await.map_err(missing)?;
        let hidden = || VolumeError::Refused("the container runtime doesn't show the layers of images".into());
        let layers = self.images.layers(&image).ok_or_else(hidden)?;
        // For image garbage collection: the name may stand for another image by then.
        std::fs::create_dir_all(&folder)?;
        bounded::durable::replace(&folder.join(IMAGE), image.id.as_bytes())?;
        rootfs::mount_overlay(&layers, &folder.join("unused"), &root, None, None)?;
        Ok(root)
    }

    /// A bound claim's volume.
    async fn claim(&self, request: Request<'_>, volume: &Volume, wanted: &Claim<'_>) -> Result<Ready, VolumeError> {
        let Request { pod, dirs, first, .. } = request;
        let (claim, found) = self.bound_volume(pod, wanted).await?;
        let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
        if let Some(source) = csi::Source::of(&found, read_only) {
            let ready = self.csi.publish(pod, dirs, &volume.name, &source, first).await?;
            self.csi.expand(pod, &claim, &found, &source).await?;
            return Ok(ready);
        }
        let spec = found.spec.clone().unwrap_or_default();
        if let Some(local) = spec.local {
            return self.local_volume(&claim, &found, local).await;
        }
        if let Some(source) = &spec.nfs {
            let target = dirs.run.join("volumes").join(&volume.name);
            return nfs::publish(source, &spec.mount_options.unwrap_or_default(), read_only, target).await;
        }
        if let Some(source) = spec.host_path {
            let path = host_path::publish(&source.path, source.type_.as_deref().unwrap_or("DirectoryOrCreate"))?;
            // The machine's own files keep their owner, as with the volume of the same name.
            return Ok(Ready { path, fs_group: FsGroup::Never });
        }
        Err(VolumeError::Refused("its volume's type isn't served by this version of timonel".into()))
    }

    /// A claim of a pod, and the volume that it is bound to.
    async fn bound_volume(
        &self,
        pod: &Pod,
        wanted: &Claim<'_>,
    ) -> Result<(PersistentVolumeClaim, PersistentVolume), VolumeError> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), &wanted.name);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let claim = claims.get(name).await?;
        if !wanted.belongs(pod.metadata.uid.as_deref(), claim.owner_references()) {
            return Err(VolumeError::Refused(format!("PVC \"{namespace}/{name}\" was not created for the pod")));
        }
        let is_bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let bound_to = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| is_bound);
        let unbound = || VolumeError::Refused(format!("persistentvolumeclaim {name:?} is not bound"));
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = volumes.get(&bound_to.ok_or_else(unbound)?).await?;
        Ok((claim, volume))
    }

    /// A local volume; one of `local-path` is made and filled first.
    async fn local_volume(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        source: LocalVolumeSource,
    ) -> Result<Ready, VolumeError> {
        let path = PathBuf::from(source.path);
        if path.starts_with(self.config.storage_dir()) {
            self.local_path.fill(volume).await?;
            let is_new = !path.exists();
            std::fs::create_dir_all(&path)?;
            self.local_path.limit_size(claim, volume, &path, is_new).await?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        }
        if !path.exists() {
            return Err(VolumeError::Refused(format!("path {} does not exist", path.display())));
        }
        let fs_group = if path.is_dir() { FsGroup::Once } else { FsGroup::Never };
        Ok(Ready { path, fs_group })
    }
}

/// Gives a volume to the pod's `fsGroup`, if the pod has one and the volume is due.
async fn apply_fs_group(pod: &Pod, ready: &Ready, first: bool) {
    let Ready { path, fs_group } = ready.clone();
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let is_due = fs_group == FsGroup::Always || (first && fs_group == FsGroup::Once);
    let Some(group) = context.and_then(|c| c.fs_group).filter(|_| is_due) else { return };
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    let only_on_mismatch = policy == Some("OnRootMismatch");
    let rights = if fs_group == FsGroup::Always { Rights::Read } else { Rights::ReadWrite };
    let _ = tokio::task::spawn_blocking(move || {
        if !(only_on_mismatch && belongs_to(&path, group))
            && let Err(error) = runtime::inside::give_to_group(&path, group as u32, rights)
        {
            tracing::warn!(path = %path.display(), %error, "failed to apply fsGroup to a volume");
        }
    })
    .await;
}

/// Whether the root of a volume belongs to the group already, with the rights that a pod of the group needs.
fn belongs_to(path: &Path, group: i64) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| i64::from(meta.gid()) == group && meta.mode() & 0o2070 == 0o2070)
}
