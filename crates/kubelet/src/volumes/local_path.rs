//! The node's side of `local-path`: folders are filled and removed where they are, and snapshots taken of them.
//!
//! A snapshot is a copy that shares its blocks with the volume where the file system can do that (Btrfs, XFS), and a plain copy
//! elsewhere. It is taken while pods write.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::csi::local_path::{
    CONTENT_SOURCE_ANNOTATION, ContentSource, FINALIZER, NODE_KEY, PROVISIONER, snapshot_handle, split_snapshot_handle,
};
use ::csi::snapshots::{BEING_DELETED_ANNOTATION, CONTENT_FINALIZER, VolumeSnapshotContent};
use informer::{Change, Informer, Informers, Key, Queue, Recorder};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use runtime::keyed_mutex::KeyedMutex;
use runtime::{inside, rootfs};
use serde_json::{Value, json};
use tokio::process::Command;

use super::VolumeError;
use crate::config::Config;

/// What is kept of the complaints of `cp`, which names each file of a volume that it can't copy, in bytes.
const MAX_OUTPUT_BYTES: u64 = 16 << 10;

impl Config {
    fn snapshot_dir(&self, name: &str) -> PathBuf {
        self.storage_dir().join("snapshots").join(name)
    }
}

/// Fills, removes and snapshots the volumes of this node, as the API asks for it.
pub async fn run(local: Arc<LocalPath>) {
    let volumes = local.informers.of::<PersistentVolume>();
    let queue = Queue::of(&volumes, local.events.clone());
    let (add, node) = (queue.clone(), local.config.node_name.clone());
    volumes.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && new.annotations().get(NODE_KEY) == Some(&node)
            && (new.metadata.deletion_timestamp.is_some() || new.annotations().contains_key(CONTENT_SOURCE_ANNOTATION))
        {
            add.add(informer::Keyed::key(new.as_ref()));
        }
    });
    let (of, all) = (local.clone(), volumes.clone());
    queue.work("local-volumes", 1, move |key| {
        let (local, volumes) = (of.clone(), all.clone());
        async move {
            let Some(volume) = volumes.get(&key) else { return Ok(None) };
            if volume.metadata.deletion_timestamp.is_some() {
                remove(&local, &volume).await.map(|()| None)
            } else {
                local.fill(&volume).await.map(|()| None)
            }
        }
    });
    if local.config.snapshots {
        follow_snapshots(local, volumes);
    }
}

fn follow_snapshots(local: Arc<LocalPath>, volumes: Informer<PersistentVolume>) {
    let mine = format!("{NODE_KEY}={}", local.config.node_name);
    let contents: Informer<VolumeSnapshotContent> = Informer::start(Api::all(local.client.clone()), "", &mine);
    let queue = Queue::of(&contents, local.events.clone());
    let add = queue.clone();
    contents.on_change(move |change| add.add(informer::Keyed::key(change.object().as_ref())));
    queue.work("local-snapshots", 1, move |key| {
        let (local, volumes, contents) = (local.clone(), volumes.clone(), contents.clone());
        async move {
            volumes.synced().await;
            let Some(content) = contents.get(&key).filter(|c| c.spec.driver == PROVISIONER) else { return Ok(None) };
            snapshot(&local, &volumes, &content).await.map(|()| None)
        }
    });
}

/// The node's side of `local-path`.
pub struct LocalPath {
    config: Arc<Config>,
    client: Client,
    informers: Informers,
    events: Recorder,
    /// Steps that concern one volume are made one after the other.
    keyed_mutex: KeyedMutex,
}

impl LocalPath {
    /// What it asks of the API it asks by `client`.
    pub fn new(config: Arc<Config>, client: Client, informers: Informers, events: Recorder) -> Self {
        LocalPath { config, client, informers, events, keyed_mutex: KeyedMutex::default() }
    }

    /// Fills a new volume with what it is to begin with. Done before, nothing happens.
    ///
    /// # Errors
    /// With what is missing, or those of the file system.
    pub async fn fill(&self, volume: &PersistentVolume) -> Result<(), VolumeError> {
        let name = volume.name_any();
        let _turn = self.keyed_mutex.lock(&name).await;
        let (Some(origin), Some(path)) =
            (volume.annotations().get(CONTENT_SOURCE_ANNOTATION), folder(&self.config, volume))
        else {
            return Ok(());
        };
        if !path.exists() {
            let from = match origin.parse().map_err(VolumeError::Refused)? {
                ContentSource::Snapshot(name) => self.config.snapshot_dir(&name),
                ContentSource::Volume(other) => {
                    let volumes = self.informers.of::<PersistentVolume>();
                    let other = volumes.get(&Key::new("", &other)).and_then(|v| folder(&self.config, &v));
                    let missing = || format!("the volume that {name} is to be a copy of isn't there");
                    other.ok_or_else(|| VolumeError::Refused(missing()))?
                }
            };
            copy(&self.config, &from, &path).await?;
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"annotations": {CONTENT_SOURCE_ANNOTATION: null}}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Sees to it that a volume holds what its size says and no more, where the file system can; else says that it can't, once.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn limit_size(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        folder: &Path,
        is_new: bool,
    ) -> Result<(), VolumeError> {
        let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
        let size = capacity.and_then(|size| size.0.parse::<apimachinery::Quantity>().ok());
        let Some(bytes) = size.and_then(|size| u64::try_from(size.value()).ok()) else { return Ok(()) };
        let place = folder.to_path_buf();
        let bounding = tokio::task::spawn_blocking(move || runtime::quota::bound(&place, bytes));
        let failed = |error| VolumeError::Refused(format!("its size can't be bounded: {error}"));
        if !bounding.await?.map_err(failed)? && is_new {
            let text = format!(
                "the size of the claim is no bound: the file system of {} has no project quotas (ext4: `tune2fs -O project,quota`; ext4 and XFS: mount it with prjquota)",
                self.config.storage_dir().display()
            );
            self.events.normal(claim, "SizeNotEnforced", text);
        }
        Ok(())
    }
}

/// The folder of a volume, if it is one of this node's storage.
fn folder(config: &Config, volume: &PersistentVolume) -> Option<PathBuf> {
    let path = PathBuf::from(&volume.spec.as_ref()?.local.as_ref()?.path);
    path.starts_with(config.storage_dir()).then_some(path)
}

/// Copies a folder with all that files have, so that it is there as a whole or not at all, also after a power cut.
async fn copy(config: &Config, from: &Path, to: &Path) -> Result<(), VolumeError> {
    let partial = to.with_extension("partial");
    remove_folder(&partial).await?;
    std::fs::create_dir_all(to.parent().unwrap_or(to))?;
    if !from.exists() {
        return Err(VolumeError::Refused(format!("{} isn't there", from.display())));
    }
    // A pod that writes to the volume could put a link in the program's way to what isn't the volume's.
    let shown = config.run_dir.join("copies").join(to.file_name().unwrap_or_default());
    unshow(&shown)?;
    inside::show_without_links(from, &shown)?;
    // Programs that don't know how to share blocks (busybox) copy them.
    let mut failed = String::new();
    for options in [&["-a", "--reflink=auto"][..], &["-a"]] {
        let output =
            bounded::output(Command::new("cp").args(options).arg(&shown).arg(&partial), b"", MAX_OUTPUT_BYTES).await;
        let output = output.map_err(|e| VolumeError::Refused(format!("cp can't be run: {e}")))?;
        if output.status.success() {
            failed.clear();
            break;
        }
        failed = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ");
        remove_folder(&partial).await?;
    }
    unshow(&shown)?;
    if !failed.is_empty() {
        return Err(VolumeError::Refused(failed));
    }
    let to = to.to_path_buf();
    let finish = move || -> io::Result<()> {
        nix::unistd::syncfs(std::fs::File::open(&partial)?)?;
        #[expect(clippy::disallowed_methods, reason = "it is a folder, whose files are on the disk")]
        std::fs::rename(&partial, &to)?;
        std::fs::File::open(to.parent().unwrap_or(&to))?.sync_all()
    };
    Ok(tokio::task::spawn_blocking(finish).await??)
}

/// Undoes [`inside::show_without_links`], also if it was done by a process that was killed.
fn unshow(shown: &Path) -> io::Result<()> {
    rootfs::unmount_below(&[shown])?;
    match std::fs::remove_dir(shown) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn remove_folder(path: &Path) -> Result<(), VolumeError> {
    let path = path.to_path_buf();
    let removed = tokio::task::spawn_blocking(move || runtime::remove_tree(&path)).await?;
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn remove(local: &LocalPath, volume: &PersistentVolume) -> Result<(), VolumeError> {
    let held = volume.finalizers().iter().any(|f| f == FINALIZER);
    // Others may hold it still, as long as a claim uses it.
    let last = volume.finalizers().len() == 1;
    let Some(path) = folder(&local.config, volume).filter(|_| held && last) else { return Ok(()) };
    remove_folder(&path).await?;
    let api: Api<PersistentVolume> = Api::all(local.client.clone());
    let patch = json!({"metadata": {"finalizers": []}});
    gone_or_done(api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
}

fn gone_or_done<T>(result: Result<T, kube::Error>) -> Result<(), VolumeError> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).map_err(VolumeError::Api),
    }
}

/// Takes a snapshot, finds the one that is there, or removes it.
async fn snapshot(
    local: &LocalPath,
    volumes: &Informer<PersistentVolume>,
    content: &VolumeSnapshotContent,
) -> Result<(), VolumeError> {
    let (name, node) = (content.name_any(), &local.config.node_name);
    let api: Api<VolumeSnapshotContent> = Api::all(local.client.clone());
    let status = content.status.clone().unwrap_or_default();
    let source = &content.spec.source;
    let given = status.snapshot_handle.as_ref().or(source.snapshot_handle.as_ref());
    let place = match given.map(|handle| split_snapshot_handle(handle)) {
        Some(Some((at, name))) if at == node => local.config.snapshot_dir(name),
        Some(_) => {
            return patch_status(
                &api,
                &name,
                json!({"readyToUse": false, "error": {"message":
            format!("the handle of a snapshot of {PROVISIONER} must be NODE/NAME, with the node {node}")}}),
            )
            .await;
        }
        None => local.config.snapshot_dir(&name),
    };
    if content.metadata.deletion_timestamp.is_some() {
        return delete_snapshot(&api, content, &place).await;
    }
    if status.ready_to_use == Some(true) {
        return Ok(());
    }
    let volume = source.volume_handle.as_ref().and_then(|v| volumes.get(&Key::new("", v)));
    if !place.exists() {
        let Some(from) = volume.as_ref().and_then(|v| folder(&local.config, v)) else {
            let error = json!({"message": "there is neither the snapshot nor the volume on this node"});
            return patch_status(&api, &name, json!({"readyToUse": false, "error": error})).await;
        };
        // A volume that no pod had yet is empty.
        std::fs::create_dir_all(&from)?;
        if let Err(error) = copy(&local.config, &from, &place).await {
            patch_status(&api, &name, json!({"readyToUse": false, "error": {"message": error.to_string()}})).await?;
            return Err(error);
        }
    }
    let taken = std::fs::metadata(&place).and_then(|m| m.created().or_else(|_| m.modified()));
    let taken = taken.unwrap_or_else(|_| SystemTime::now()).duration_since(UNIX_EPOCH).unwrap_or_default();
    let capacity = volume.and_then(|v| v.spec.as_ref()?.capacity.clone()).and_then(|c| c.get("storage").cloned());
    let size = capacity.and_then(|q| q.0.parse::<apimachinery::Quantity>().ok()).map(apimachinery::Quantity::value);
    let id = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let made = json!({"snapshotHandle": snapshot_handle(node, &id), "readyToUse": true, "restoreSize": size,
        "creationTime": i64::try_from(taken.as_nanos()).unwrap_or_default(), "error": null});
    patch_status(&api, &name, made).await
}

/// Removes a snapshot that its content's deletion policy doesn't keep, and lets the content go.
async fn delete_snapshot(
    api: &Api<VolumeSnapshotContent>,
    content: &VolumeSnapshotContent,
    place: &Path,
) -> Result<(), VolumeError> {
    let is_wanted = content.spec.deletion_policy == "Delete";
    if !content.finalizers().iter().any(|f| f == CONTENT_FINALIZER)
        || (is_wanted && !content.annotations().contains_key(BEING_DELETED_ANNOTATION))
    {
        return Ok(());
    }
    if is_wanted {
        remove_folder(place).await?;
    }
    let left: Vec<&String> = content.finalizers().iter().filter(|f| *f != CONTENT_FINALIZER).collect();
    let patch = json!({"metadata": {"finalizers": left}});
    gone_or_done(api.patch(&content.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
}

async fn patch_status(api: &Api<VolumeSnapshotContent>, name: &str, status: Value) -> Result<(), VolumeError> {
    let patch = Patch::Merge(json!({ "status": status }));
    gone_or_done(api.patch_status(name, &PatchParams::default(), &patch).await)
}
