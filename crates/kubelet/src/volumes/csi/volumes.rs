//! Volumes of storage drivers: staged once on the node, published once for a pod, and let go in reverse.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::csi::v1::volume_capability::access_mode::Mode;
use ::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use ::csi::v1::{
    CapacityRange, NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, SecretReference, Volume};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Csi, Driver};
use crate::config::Config;
use crate::environment::sources;
use crate::state::Places;
use crate::volumes::{FsGroup, Ready, VolumeError, tokens};

/// A driver may take this long for one call, as upstream's may.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a pod waits in place for its volume to be attached, before it looks whether it is wanted still.
const ATTACH_CHECK_PERIOD: Duration = Duration::from_secs(2);

/// A volume as its driver is told of it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    driver: String,
    handle: String,
    /// The PersistentVolume's name; of a volume in a pod's own spec, that.
    name: String,
    /// It is made for the pod and goes with it (KEP-596).
    ephemeral: bool,
    block: bool,
    read_only: bool,
    fs_type: String,
    attributes: BTreeMap<String, String>,
    access_mode: String,
    mount_options: Vec<String>,
    stage_secret: Option<SecretReference>,
    publish_secret: Option<SecretReference>,
    expand_secret: Option<SecretReference>,
}

impl Source {
    /// Of a PersistentVolume, if it is a driver's.
    pub fn of(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.clone()?;
        let csi = spec.csi?;
        Some(Source {
            driver: csi.driver,
            handle: csi.volume_handle,
            name: volume.name_any(),
            ephemeral: false,
            block: spec.volume_mode.as_deref() == Some("Block"),
            read_only: read_only || csi.read_only.unwrap_or(false),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            access_mode: spec.access_modes.into_iter().flatten().next().unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            stage_secret: csi.node_stage_secret_ref,
            publish_secret: csi.node_publish_secret_ref,
            expand_secret: csi.node_expand_secret_ref,
        })
    }

    /// Of a volume in a pod's own spec.
    pub fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let csi = volume.csi.clone()?;
        let whose = format!("{}{}", pod.uid().unwrap_or_default(), volume.name);
        let secret = |r: k8s_openapi::api::core::v1::LocalObjectReference| SecretReference {
            name: Some(r.name),
            namespace: pod.namespace(),
        };
        Some(Source {
            driver: csi.driver,
            handle: format!("csi-{}", pki::sha256_hex(whose.as_bytes())),
            name: volume.name.clone(),
            ephemeral: true,
            read_only: csi.read_only.unwrap_or(false),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            access_mode: "ReadWriteOnce".into(),
            publish_secret: csi.node_publish_secret_ref.map(secret),
            ..Source::default()
        })
    }

    /// Where it is staged: the same for all pods.
    fn staged(&self, config: &Config) -> PathBuf {
        let plugins = config.plugins_dir().join("kubernetes.io/csi");
        if self.block {
            return plugins.join("volumeDevices/staging").join(&self.name);
        }
        plugins.join(&self.driver).join(pki::sha256_hex(self.handle.as_bytes())).join("globalmount")
    }

    /// Where a pod gets it.
    fn target(&self, config: &Config, uid: &str) -> PathBuf {
        if self.block {
            let devices = config.plugins_dir().join("kubernetes.io/csi/volumeDevices/publish");
            return devices.join(&self.name).join(uid);
        }
        config.published_dir(uid).join("volumes/kubernetes.io~csi").join(&self.name).join("mount")
    }

    fn mode(&self, driver: &Driver) -> Mode {
        match (self.access_mode.as_str(), driver.capabilities.single_node) {
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            (_, true) => Mode::SingleNodeMultiWriter,
            (_, false) => Mode::SingleNodeWriter,
        }
    }

    fn capability(&self, driver: &Driver, group: Option<i64>) -> VolumeCapability {
        let access = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
            })
        };
        let mode = AccessMode { mode: self.mode(driver).into() };
        VolumeCapability { access_type: Some(access), access_mode: Some(mode) }
    }

    /// Whether the agent gives the volume to the pod's `fsGroup` (KEP-1682).
    fn takes_group(&self, policy: Option<&str>) -> bool {
        let once = matches!(self.access_mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
        match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "File" => !self.read_only,
            "None" => false,
            _ => !self.read_only && once && !self.fs_type.is_empty(),
        }
    }
}

/// What is kept of a published volume until its driver has let it go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    driver: String,
    handle: String,
    target: PathBuf,
    staged: Option<PathBuf>,
    /// It was attached to the node, and may be taken from it.
    #[serde(default)]
    attached: bool,
}

/// What the node uses of what is attached to it, as `status.volumesInUse` names it.
pub fn in_use(config: &Config) -> BTreeSet<String> {
    let attached = all_records(config).filter(|(_, r)| r.attached);
    attached.map(|(_, r)| ::csi::unique_name(&r.driver, &r.handle)).collect()
}

/// The records of one pod.
fn records(pod: &Path) -> Vec<(PathBuf, Record)> {
    let files = std::fs::read_dir(pod.join("csi")).into_iter().flatten().flatten();
    files
        .filter_map(|f| Some((f.path(), serde_json::from_slice(&bounded::bytes(f.path(), bounded::OWN).ok()?).ok()?)))
        .collect()
}

/// The records of all pods.
fn all_records(config: &Config) -> impl Iterator<Item = (PathBuf, Record)> {
    let pods = std::fs::read_dir(config.pods_dir()).into_iter().flatten().flatten();
    pods.flat_map(|pod| records(&pod.path()))
}

fn keep(path: &Path, record: &Record) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    bounded::durable::replace(path, &serde_json::to_vec(record)?)
}

/// The file that says that a volume is published. It ends with the machine, as the mount does.
fn mark(places: &Places, volume: &str) -> PathBuf {
    places.run.join("csi").join(volume)
}

/// One call of a driver: its error in upstream's words.
async fn ask<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, VolumeError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            Err(VolumeError::Rpc { code: format!("{:?}", status.code()), message: status.message().into() })
        }
        Err(_) => Err(VolumeError::Rpc {
            code: "DeadlineExceeded".into(),
            message: format!("no answer for {} s", CALL_TIMEOUT.as_secs()),
        }),
    }
}

/// Names the step that failed.
fn step(step: &'static str) -> impl FnOnce(VolumeError) -> VolumeError {
    move |source| VolumeError::Step { step, source: Box::new(source) }
}

impl Csi {
    /// Makes a driver's volume ready for a pod. Done again (not `first`), it tells the driver once more if that wants it.
    ///
    /// # Errors
    /// With what is missing or what the driver said, in the words of a `FailedMount` event.
    pub async fn publish(
        &self,
        pod: &Pod,
        places: &Places,
        name: &str,
        source: &Source,
        first: bool,
    ) -> Result<Ready, VolumeError> {
        let uid = pod.uid().unwrap_or_default();
        let target = source.target(&self.config, &uid);
        let mark = mark(places, name);
        let is_published = mark.exists();
        let objects = self.informers.of::<CSIDriver>();
        objects.synced().await;
        let object = objects.get(&informer::Key::new("", &source.driver)).map(|o| o.spec.clone());
        let again = !first && object.as_ref().is_some_and(|o| o.requires_republish == Some(true));
        let ready = |fs_group| Ready { path: target.clone(), fs_group };
        if is_published && !again {
            return Ok(ready(FsGroup::Never));
        }
        let mut driver = self.drivers.find(&source.driver)?;
        let lives = object.as_ref().and_then(|o| o.volume_lifecycle_modes.clone()).unwrap_or_default();
        if source.ephemeral && !lives.iter().any(|mode| mode == "Ephemeral") {
            let why = format!("driver {} does not support ephemeral inline volumes", driver.name);
            return Err(VolumeError::Refused(why));
        }
        let _turn = self.drivers.turn(&source.driver, &source.handle).await;
        let attach = !source.ephemeral && object.as_ref().is_none_or(|o| o.attach_required != Some(false));
        let context = if attach { self.attached(source).await? } else { BTreeMap::new() };
        let stages = driver.capabilities.stage && !source.ephemeral;
        let staged = stages.then(|| source.staged(&self.config));
        let record = Record {
            driver: source.driver.clone(),
            handle: source.handle.clone(),
            target: target.clone(),
            staged: staged.clone(),
            attached: attach,
        };
        keep(&places.data.join("csi").join(format!("{name}.json")), &record)?;
        // Before it is mounted: from now on nobody takes it away.
        self.tell_in_use().await?;

        let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group);
        let policy = object.as_ref().and_then(|o| o.fs_group_policy.as_deref());
        let by_driver = group.filter(|_| driver.capabilities.mount_group && policy != Some("None"));
        let capability = source.capability(&driver, by_driver);
        if let Some(staged) = staged.as_ref().filter(|staged| !self.is_staged(staged)) {
            std::fs::create_dir_all(staged)?;
            let request = NodeStageVolumeRequest {
                volume_id: source.handle.clone(),
                publish_context: context.clone().into_iter().collect(),
                staging_target_path: staged.display().to_string(),
                volume_capability: Some(capability.clone()),
                secrets: self.driver_secret(source.stage_secret.as_ref()).await?,
                volume_context: source.attributes.clone().into_iter().collect(),
            };
            ask(driver.node.node_stage_volume(request)).await.map_err(step("MountDevice"))?;
        }
        std::fs::create_dir_all(target.parent().unwrap_or(&target))?;
        let mut volume_context: std::collections::HashMap<_, _> = source.attributes.clone().into_iter().collect();
        let mut secrets = self.driver_secret(source.publish_secret.as_ref()).await?;
        if let Some(object) = &object {
            if object.pod_info_on_mount == Some(true) {
                volume_context.extend(about(pod, source.ephemeral));
            }
            let tokens = self.driver_tokens(pod, object).await?;
            match object.service_account_token_in_secrets {
                Some(true) => secrets.extend(tokens),
                _ => volume_context.extend(tokens),
            }
        }
        let request = NodePublishVolumeRequest {
            volume_id: source.handle.clone(),
            publish_context: context.into_iter().collect(),
            staging_target_path: staged.map(|s| s.display().to_string()).unwrap_or_default(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            readonly: source.read_only,
            secrets,
            volume_context,
        };
        ask(driver.node.node_publish_volume(request)).await?;
        std::fs::create_dir_all(mark.parent().unwrap_or(&mark)).and_then(|()| std::fs::write(&mark, ""))?;
        let ours = !is_published && !source.block && by_driver.is_none() && source.takes_group(policy);
        Ok(ready(if ours { FsGroup::Once } else { FsGroup::Never }))
    }

    /// What the driver's attacher says of the volume at this node, once it is attached.
    async fn attached(&self, source: &Source) -> Result<BTreeMap<String, String>, VolumeError> {
        let name = ::csi::attachment_name(&source.handle, &source.driver, &self.config.node_name);
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let is_there = |object: Option<&VolumeAttachment>| {
            object.and_then(|a| a.status.as_ref()).is_some_and(|s| s.attached || s.attach_error.is_some())
        };
        let waiting = kube::runtime::wait::await_condition(api, &name, is_there);
        let found = match tokio::time::timeout(ATTACH_CHECK_PERIOD, waiting).await {
            Ok(found) => found.map_err(|error| VolumeError::Refused(error.to_string()))?,
            Err(_) => {
                let why = format!("volume {} isn't attached to this node yet", source.handle);
                return Err(VolumeError::Refused(why));
            }
        };
        let status = found.and_then(|a| a.status).unwrap_or_default();
        match status.attach_error.filter(|_| !status.attached) {
            Some(error) => {
                let why = format!("volume attachment failed: {}", error.message.unwrap_or_default());
                Err(VolumeError::Refused(why))
            }
            None => Ok(status.attachment_metadata.unwrap_or_default()),
        }
    }

    async fn driver_secret(
        &self,
        reference: Option<&SecretReference>,
    ) -> Result<std::collections::HashMap<String, String>, VolumeError> {
        let Some(SecretReference { name: Some(name), namespace: Some(namespace) }) = reference else {
            return Ok(Default::default());
        };
        let data = sources::secret(&self.client, namespace, name, false).await?;
        Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect())
    }

    /// Tokens of the pod's account, for drivers that act as it (KEP-2047).
    async fn driver_tokens(
        &self,
        pod: &Pod,
        object: &k8s_openapi::api::storage::v1::CSIDriverSpec,
    ) -> Result<Option<(String, String)>, VolumeError> {
        let wanted = object.token_requests.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut tokens = json!({});
        for request in wanted {
            let audience = Some(request.audience.as_str()).filter(|a| !a.is_empty());
            let status = tokens::request(&self.client, pod, audience, request.expiration_seconds).await?;
            tokens[&request.audience] =
                json!({"token": status.token, "expirationTimestamp": status.expiration_timestamp});
        }
        Ok(Some(("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens.to_string())))
    }

    /// Lets a pod's volumes go: what it has published, and what no other pod needs staged.
    ///
    /// # Errors
    /// With what a driver said; then it is to be done again.
    pub async fn unpublish(&self, uid: &str, places: &Places) -> Result<(), VolumeError> {
        for (path, record) in records(&places.data) {
            self.let_go(&path, &record).await.map_err(|e| {
                let volume = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                VolumeError::TearDown { volume, source: Box::new(e) }
            })?;
        }
        let _ = runtime::remove_tree(&places.run.join("csi"));
        let own = self.config.published_dir(uid);
        // Folders only, and only empty ones: what isn't, is mounted still or somebody else's.
        for folder in [own.join("volumes/kubernetes.io~csi"), own.join("volumes"), own] {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    async fn let_go(&self, path: &Path, record: &Record) -> Result<(), VolumeError> {
        let _turn = self.drivers.turn(&record.driver, &record.handle).await;
        let mut driver = self.drivers.find(&record.driver)?;
        let request = NodeUnpublishVolumeRequest {
            volume_id: record.handle.clone(),
            target_path: record.target.display().to_string(),
        };
        ask(driver.node.node_unpublish_volume(request)).await?;
        let _ = std::fs::remove_dir(&record.target).or_else(|_| std::fs::remove_file(&record.target));
        if let Some(parent) = record.target.parent() {
            let _ = std::fs::remove_dir(parent);
        }
        let others = |staged: &&PathBuf| self.users(staged).any(|other| other != path);
        if let Some(staged) = record.staged.as_ref().filter(|staged| !others(staged)) {
            let request = NodeUnstageVolumeRequest {
                volume_id: record.handle.clone(),
                staging_target_path: staged.display().to_string(),
            };
            ask(driver.node.node_unstage_volume(request)).await?;
            let _ = std::fs::remove_dir(staged);
            if let Some(parent) = staged.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
        std::fs::remove_file(path)?;
        self.tell_in_use().await
    }

    /// Tells the control plane which volumes must be left to this node.
    async fn tell_in_use(&self) -> Result<(), VolumeError> {
        let mut told = self.drivers.told.lock().await;
        let now = in_use(&self.config);
        if told.as_ref() == Some(&now) {
            return Ok(());
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": {"volumesInUse": now}}));
        api.patch_status(&self.config.node_name, &PatchParams::default(), &patch).await?;
        *told = Some(now);
        Ok(())
    }

    /// The records of pods for which a volume is staged, or about to be.
    fn users(&self, staged: &Path) -> impl Iterator<Item = PathBuf> {
        let of_it = all_records(&self.config).filter(move |(_, record)| record.staged.as_deref() == Some(staged));
        of_it.map(|(path, _)| path)
    }

    /// Whether a volume has been staged since the machine was started: then a pod that has it is marked.
    fn is_staged(&self, staged: &Path) -> bool {
        self.users(staged).any(|record| {
            let uid = record.ancestors().nth(2).and_then(Path::file_name).unwrap_or_default();
            let places = Places::of(&self.config, &uid.to_string_lossy());
            mark(&places, &record.file_stem().unwrap_or_default().to_string_lossy()).exists()
        })
    }

    /// Makes the file system in a volume that has grown as large as the volume, and says so in the claim.
    pub async fn expand(
        &self,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        source: &Source,
    ) -> Result<(), VolumeError> {
        let size = |map: Option<&BTreeMap<_, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            let quantity = map.and_then(|m| m.get("storage"))?;
            Some((quantity.0.parse::<apimachinery::Quantity>().ok()?.value(), quantity.clone()))
        };
        let has = |claim: &PersistentVolumeClaim| size(claim.status.as_ref()?.capacity.as_ref());
        let wanted = size(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()));
        let lacks = |claim: &PersistentVolumeClaim| {
            wanted.clone().filter(|(wanted, _)| has(claim).is_some_and(|(has, _)| has < *wanted))
        };
        let Some((wanted, quantity)) = lacks(claim) else { return Ok(()) };
        let _turn = self.drivers.turn(&source.driver, &source.handle).await;
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
            ask(driver.node.node_expand_volume(request)).await.map_err(step("NodeExpandVolume"))?;
        }
        tell_grown(&api, &claim.name_any(), Some(&quantity)).await?;
        tasks::spawn("csi-resize-condition", forget_pending(api, claim.name_any()));
        self.events.normal(pod, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume");
        Ok(())
    }
}

/// How long after a volume has grown its driver's resizer may still say that this is to come.
const RESIZER_TIMEOUT: Duration = Duration::from_secs(30);

/// A resizer first says that the volume is larger, and then that its file system isn't yet; we may have been faster.
async fn forget_pending(api: Api<PersistentVolumeClaim>, name: String) {
    let is_pending = |claim: Option<&PersistentVolumeClaim>| {
        let conditions = claim.and_then(|c| c.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "FileSystemResizePending")
    };
    let waiting = kube::runtime::wait::await_condition(api.clone(), &name, is_pending);
    if let Ok(Ok(_)) = tokio::time::timeout(RESIZER_TIMEOUT, waiting).await
        && let Err(error) = tell_grown(&api, &name, None).await
    {
        tracing::warn!(claim = name, %error, "failed to update status.capacity of a claim after its expansion");
    }
}

/// Says that a claim's file system is as large as its volume.
async fn tell_grown(
    api: &Api<PersistentVolumeClaim>,
    name: &str,
    size: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> Result<(), VolumeError> {
    let mut status = json!({"conditions": null, "allocatedResourceStatuses": null});
    if let Some(size) = size {
        status["capacity"] = json!({ "storage": size });
    }
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// What a driver may know of the pod that it makes a volume for.
fn about(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
    let of = |key: &str, value: String| (format!("csi.storage.k8s.io/{key}"), value);
    [
        of("pod.name", pod.name_any()),
        of("pod.namespace", pod.namespace().unwrap_or_default()),
        of("pod.uid", pod.uid().unwrap_or_default()),
        of("serviceAccount.name", account),
        of("ephemeral", ephemeral.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_given_as_the_driver_says() {
        let source = |mode: &str, fs_type: &str, read_only: bool| Source {
            access_mode: mode.into(),
            fs_type: fs_type.into(),
            read_only,
            ..Source::default()
        };
        let plain = source("ReadWriteOnce", "ext4", false);
        assert!(plain.takes_group(None) && plain.takes_group(Some("File")) && !plain.takes_group(Some("None")));
        assert!(!source("ReadWriteOnce", "", false).takes_group(None));
        assert!(!source("ReadWriteMany", "ext4", false).takes_group(None));
        assert!(source("ReadWriteMany", "", false).takes_group(Some("File")));
        assert!(!source("ReadWriteOnce", "ext4", true).takes_group(Some("File")));
    }

    #[test]
    fn a_volume_is_staged_once_and_published_once_for_a_pod() {
        let config = |text: &str| PathBuf::from(text);
        let spec = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
        let volume: PersistentVolume = serde_json::from_value(spec).unwrap();
        let source = Source::of(&volume, false).unwrap();
        let config = Config { kubelet_dir: config("/k"), ..crate::config::tests::config() };
        let hash = pki::sha256_hex(b"h");
        let staged = format!("/k/plugins/kubernetes.io/csi/d/{hash}/globalmount");
        assert_eq!(source.staged(&config), PathBuf::from(staged));
        assert_eq!(source.target(&config, "u"), config.kubelet_dir.join("pods/u/volumes/kubernetes.io~csi/pv/mount"));
        let block = Source { block: true, ..source };
        let devices = config.kubelet_dir.join("plugins/kubernetes.io/csi/volumeDevices");
        assert_eq!(block.staged(&config), devices.join("staging/pv"));
        assert_eq!(block.target(&config, "u"), devices.join("publish/pv/u"));
    }
}
