//! Volumes of storage drivers: staged once on the node, published once for a pod, and let go in reverse.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::csi::v1::{
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    VolumeCapability,
};
use informer::Selection;
use k8s_openapi::api::core::v1::{Node, Pod, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::records::{self, Record};
use super::{Csi, Driver, Source};
use crate::environment::sources;
use crate::state::PodDirs;
use crate::volumes::{FsGroup, Ready, VolumeError, tokens};

/// A driver may take this long for one call, as upstream's may.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a pod waits in place for its volume to be attached, before it looks whether it is wanted still.
const ATTACH_CHECK_PERIOD: Duration = Duration::from_secs(2);

/// One call of a driver: its error in upstream's words.
pub(super) async fn call<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, VolumeError> {
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
pub(super) fn step(step: &'static str) -> impl FnOnce(VolumeError) -> VolumeError {
    move |source| VolumeError::Step { step, source: Box::new(source) }
}

impl Csi {
    /// Makes a driver's volume ready for a pod. Done again (not `first`), it is published once more if the driver wants that (`requiresRepublish`).
    ///
    /// # Errors
    /// With what is missing or what the driver said, in the words of a `FailedMount` event.
    pub async fn publish(
        &self,
        pod: &Pod,
        dirs: &PodDirs,
        name: &str,
        source: &Source,
        first: bool,
    ) -> Result<Ready, VolumeError> {
        let uid = pod.uid().unwrap_or_default();
        let target = source.target(&self.config, &uid);
        let mark = records::mark(dirs, name);
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
        check_lifecycle(source, object.as_ref())?;
        let _lock = self.drivers.lock(&source.driver, &source.handle).await;
        let attach = !source.ephemeral && object.as_ref().is_none_or(|o| o.attach_required != Some(false));
        let context = if attach { self.attached(source).await? } else { BTreeMap::new() };
        let stages = driver.capabilities.stage && !source.ephemeral;
        let staged = stages.then(|| source.staged(&self.config));
        let (driver_name, handle) = (source.driver.clone(), source.handle.clone());
        let record =
            Record { driver: driver_name, handle, target: target.clone(), staged: staged.clone(), attached: attach };
        records::write(&dirs.data.join("csi").join(format!("{name}.json")), &record)?;
        // Before it is mounted: from now on the control plane doesn't detach it.
        self.report_volumes_in_use().await?;

        let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group);
        let policy = object.as_ref().and_then(|o| o.fs_group_policy.as_deref());
        let by_driver = group.filter(|_| driver.capabilities.mount_group && policy != Some("None"));
        let capability = source.capability(&driver, by_driver);
        if let Some(staged) = staged.as_ref().filter(|staged| !self.is_staged(staged)) {
            self.stage(&mut driver, source, &context, staged, capability.clone()).await?;
        }
        std::fs::create_dir_all(target.parent().unwrap_or(&target))?;
        let (secrets, volume_context) = self.publish_context(pod, source, object.as_ref()).await?;
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
        call(driver.node.node_publish_volume(request)).await?;
        std::fs::create_dir_all(mark.parent().unwrap_or(&mark)).and_then(|()| std::fs::write(&mark, ""))?;
        let ours = !is_published && !source.block && by_driver.is_none() && source.takes_group(policy);
        Ok(ready(if ours { FsGroup::Once } else { FsGroup::Never }))
    }

    /// Has a driver stage a volume on the node.
    async fn stage(
        &self,
        driver: &mut Driver,
        source: &Source,
        context: &BTreeMap<String, String>,
        staged: &Path,
        capability: VolumeCapability,
    ) -> Result<(), VolumeError> {
        std::fs::create_dir_all(staged)?;
        let request = NodeStageVolumeRequest {
            volume_id: source.handle.clone(),
            publish_context: context.clone().into_iter().collect(),
            staging_target_path: staged.display().to_string(),
            volume_capability: Some(capability),
            secrets: self.driver_secret(source.stage_secret.as_ref()).await?,
            volume_context: source.attributes.clone().into_iter().collect(),
        };
        call(driver.node.node_stage_volume(request)).await.map_err(step("MountDevice"))?;
        Ok(())
    }

    /// The secrets and the context that a driver gets with a volume of a pod.
    async fn publish_context(
        &self,
        pod: &Pod,
        source: &Source,
        object: Option<&CSIDriverSpec>,
    ) -> Result<(HashMap<String, String>, HashMap<String, String>), VolumeError> {
        let mut context: HashMap<_, _> = source.attributes.clone().into_iter().collect();
        let mut secrets = self.driver_secret(source.publish_secret.as_ref()).await?;
        if let Some(object) = object {
            if object.pod_info_on_mount == Some(true) {
                context.extend(pod_info(pod, source.ephemeral));
            }
            let tokens = self.driver_tokens(pod, object).await?;
            match object.service_account_token_in_secrets {
                Some(true) => secrets.extend(tokens),
                _ => context.extend(tokens),
            }
        }
        Ok((secrets, context))
    }

    /// What the driver's attacher says of the volume at this node, once it is attached.
    async fn attached(&self, source: &Source) -> Result<BTreeMap<String, String>, VolumeError> {
        let name = ::csi::attachment_name(&source.handle, &source.driver, &self.config.node_name);
        let selection = Selection::named(VolumeAttachment::url_path(&(), None), &name);
        let outcome = |object: Option<VolumeAttachment>| {
            object.and_then(|a| a.status).filter(|s| s.attached || s.attach_error.is_some())
        };
        let waiting = informer::wait_until(self.client.clone(), selection, outcome);
        let Ok(status) = tokio::time::timeout(ATTACH_CHECK_PERIOD, waiting).await else {
            let why = format!("volume {} isn't attached to this node yet", source.handle);
            return Err(VolumeError::Refused(why));
        };
        match status.attach_error.filter(|_| !status.attached) {
            Some(error) => {
                let why = format!("volume attachment failed: {}", error.message.unwrap_or_default());
                Err(VolumeError::Refused(why))
            }
            None => Ok(status.attachment_metadata.unwrap_or_default()),
        }
    }

    pub(super) async fn driver_secret(
        &self,
        reference: Option<&SecretReference>,
    ) -> Result<HashMap<String, String>, VolumeError> {
        let Some(SecretReference { name: Some(name), namespace: Some(namespace) }) = reference else {
            return Ok(Default::default());
        };
        let data = sources::secret(&self.client, namespace, name, false).await?;
        Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect())
    }

    /// Tokens of the pod's account, for drivers that act as it (KEP-2047).
    async fn driver_tokens(&self, pod: &Pod, object: &CSIDriverSpec) -> Result<Option<(String, String)>, VolumeError> {
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
    pub async fn unpublish(&self, uid: &str, dirs: &PodDirs) -> Result<(), VolumeError> {
        for (path, record) in records::records(&dirs.data) {
            self.unpublish_volume(&path, &record).await.map_err(|e| {
                let volume = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                VolumeError::TearDown { volume, source: Box::new(e) }
            })?;
        }
        let _ = runtime::remove_tree(&dirs.run.join("csi"));
        let own = self.config.published_dir(uid);
        // Folders only, and only empty ones: what isn't empty is still mounted, or isn't ours.
        for folder in [own.join("volumes/kubernetes.io~csi"), own.join("volumes"), own] {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    async fn unpublish_volume(&self, path: &Path, record: &Record) -> Result<(), VolumeError> {
        let _lock = self.drivers.lock(&record.driver, &record.handle).await;
        let mut driver = self.drivers.find(&record.driver)?;
        let request = NodeUnpublishVolumeRequest {
            volume_id: record.handle.clone(),
            target_path: record.target.display().to_string(),
        };
        call(driver.node.node_unpublish_volume(request)).await?;
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
            call(driver.node.node_unstage_volume(request)).await?;
            let _ = std::fs::remove_dir(staged);
            if let Some(parent) = staged.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
        std::fs::remove_file(path)?;
        self.report_volumes_in_use().await
    }

    /// Tells the control plane which volumes must be left to this node.
    async fn report_volumes_in_use(&self) -> Result<(), VolumeError> {
        let mut reported = self.drivers.reported_in_use.lock().await;
        let now = records::in_use(&self.config);
        if reported.as_ref() == Some(&now) {
            return Ok(());
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": {"volumesInUse": now}}));
        api.patch_status(&self.config.node_name, &PatchParams::default(), &patch).await?;
        *reported = Some(now);
        Ok(())
    }

    /// The records of pods for which a volume is staged, or about to be.
    fn users(&self, staged: &Path) -> impl Iterator<Item = PathBuf> {
        let of_it =
            records::all_records(&self.config).filter(move |(_, record)| record.staged.as_deref() == Some(staged));
        of_it.map(|(path, _)| path)
    }

    /// Whether a volume has been staged since the machine was started: then a pod that has it is marked.
    fn is_staged(&self, staged: &Path) -> bool {
        self.users(staged).any(|record| {
            let uid = record.ancestors().nth(2).and_then(Path::file_name).unwrap_or_default();
            let dirs = PodDirs::of(&self.config, &uid.to_string_lossy());
            records::mark(&dirs, &record.file_stem().unwrap_or_default().to_string_lossy()).exists()
        })
    }
}

/// Checks that the driver of a volume in a pod's own spec serves such volumes (KEP-596).
fn check_lifecycle(source: &Source, object: Option<&CSIDriverSpec>) -> Result<(), VolumeError> {
    let modes = object.and_then(|o| o.volume_lifecycle_modes.as_deref()).unwrap_or_default();
    if source.ephemeral && !modes.iter().any(|mode| mode == "Ephemeral") {
        let why = format!("driver {} does not support ephemeral inline volumes", source.driver);
        return Err(VolumeError::Refused(why));
    }
    Ok(())
}

/// What a driver may know of the pod that it makes a volume for.
fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
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
