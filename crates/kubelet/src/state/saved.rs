//! What is known of a pod and its containers, and kept on disk.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use runtime::spec::Limits;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Sandbox;

/// How a run of a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    /// The container's id.
    pub id: String,
    /// The exit code.
    pub code: i32,
    /// The signal that ended it; zero if none did.
    pub signal: i32,
    /// Whether the kernel killed it for want of memory.
    pub oom: bool,
    /// When it was started, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    pub finished_at: String,
    /// The termination message.
    pub message: String,
    /// It was ended to be started again, which then happens whatever its exit code and policy say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restart_due: bool,
}

/// Who a container's first process is (KEP-3619).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerUser {
    /// The user's number.
    pub uid: i64,
    /// The primary group's.
    pub gid: i64,
    /// All groups, the primary one among them.
    pub supplemental_groups: Vec<i64>,
}

/// The state of a container's current run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    #[default]
    Waiting,
    Running {
        started_at: String,
    },
    #[serde(rename = "Ended")]
    Terminated(Terminated),
}

/// Reasons of a container's waiting state, upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingReason {
    /// What the container is made of is missing or contradictory.
    CreateContainerConfigError,
    /// The runtime can't make the container.
    CreateContainerError,
    /// The runtime can't start the container.
    RunContainerError,
    /// The image's name can't be parsed.
    InvalidImageName,
    /// The image isn't present, and its policy is `Never`.
    ErrImageNeverPull,
    /// The image's pull failed.
    ErrImagePull,
    /// The image's pull failed, and isn't tried again yet.
    ImagePullBackOff,
}

impl WaitingReason {
    /// The reason as a status has it.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitingReason::CreateContainerConfigError => "CreateContainerConfigError",
            WaitingReason::CreateContainerError => "CreateContainerError",
            WaitingReason::RunContainerError => "RunContainerError",
            WaitingReason::InvalidImageName => "InvalidImageName",
            WaitingReason::ErrImageNeverPull => "ErrImageNeverPull",
            WaitingReason::ErrImagePull => "ErrImagePull",
            WaitingReason::ImagePullBackOff => "ImagePullBackOff",
        }
    }

    /// Whether the container can go on as soon as its image is present.
    pub fn is_for_image(self) -> bool {
        use WaitingReason::{ErrImageNeverPull, ErrImagePull, ImagePullBackOff};
        matches!(self, ErrImageNeverPull | ErrImagePull | ImagePullBackOff)
    }
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The reason.
    pub reason: WaitingReason,
    /// The message of the waiting state.
    pub message: String,
}

/// A container of the pod, over all its runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Counts from zero; the restart count.
    pub attempt: i32,
    /// The current run's container id; empty before the first.
    pub id: String,
    /// The image as the status names it.
    pub image_id: String,
    /// The state of the current run.
    pub phase: ContainerState,
    /// How the run before ended.
    pub last: Option<Terminated>,
    /// Runs that ended soon after one another.
    pub failures: u32,
    /// What the running container may use, and the part of its spec that said so.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// The resources of its spec that it runs with.
    #[serde(default)]
    pub resources: Option<ResourceRequirements>,
    /// The image that its spec named when it was started.
    #[serde(default)]
    pub image: Option<String>,
    /// Who it runs as, if the runtime tells.
    #[serde(default)]
    pub user: Option<ContainerUser>,
    /// It is being ended to be started again.
    #[serde(default)]
    pub is_restart_due: bool,
    /// Whether its readiness probe, if any, succeeds.
    #[serde(skip)]
    pub ready: bool,
    /// Whether its startup probe, if any, has succeeded.
    #[serde(skip)]
    pub started: bool,
    /// Why it waits, while it does.
    #[serde(skip)]
    pub waiting: Option<Waiting>,
    /// Before this it isn't started (back-off).
    #[serde(skip)]
    pub not_before: Option<Instant>,
}

/// What is on disk of a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PodCheckpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// `status.startTime`
    pub start_time: String,
    /// The sandbox, once it was made.
    pub sandbox: Option<Sandbox>,
    /// The containers by name.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Why the pod had to go, if the machine ran short.
    #[serde(default)]
    pub evicted: Option<String>,
    /// It had to go for a critical one.
    #[serde(default)]
    pub preempted: bool,
    /// Why this node ended the pod, or never began with it: reason and message.
    #[serde(default)]
    pub failed: Option<(String, String)>,
    /// The pod was deleted and its containers have ended: none is started again.
    #[serde(skip)]
    pub ended: bool,
    /// The pod is over, and what it had is removed except for its logs.
    pub finished: bool,
}

/// Reads a pod's state from its folder.
pub fn load(folder: &Path) -> Option<PodCheckpoint> {
    serde_json::from_slice(&bounded::bytes(folder.join("state.json"), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()
}

/// Writes a pod's state into its folder.
///
/// # Errors
/// Those of the file system.
pub fn save(folder: &Path, saved: &PodCheckpoint) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    bounded::durable::replace(&folder.join("state.json"), &serde_json::to_vec(saved)?)
}

/// The file of a pod's manifest.
const MANIFEST: &str = "pod.json";

/// The pod of a folder, as the API said it last.
pub fn load_manifest(folder: &Path) -> Option<Pod> {
    serde_json::from_slice(&bounded::bytes(folder.join(MANIFEST), bounded::MAX_OWN_FILE_BYTES).ok()?).ok()
}

/// What of a pod matters here; a version alone doesn't.
fn relevant(pod: &Pod) -> (&ObjectMeta, Option<&PodSpec>, Option<&PodStatus>) {
    (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref())
}

/// Writes a pod down for times without an API. `before` is what was written last. A pod may say secrets in its environment: the file is
/// for root alone.
///
/// # Errors
/// The folder or the file can't be written.
pub fn save_manifest(folder: &Path, pod: &Pod, before: &mut Option<Pod>) -> std::io::Result<()> {
    let mut plain = pod.clone();
    plain.metadata.managed_fields = None;
    let mut same_version = plain.clone();
    same_version.metadata.resource_version = before.as_ref().and_then(|b| b.metadata.resource_version.clone());
    if before.as_ref().is_some_and(|before| relevant(before) == relevant(&same_version)) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    bounded::durable::replace(&folder.join(MANIFEST), &serde_json::to_vec(&plain)?)?;
    *before = Some(plain);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_written_down_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut pod =
            Pod { spec: Some(PodSpec { node_name: Some("n".into()), ..Default::default() }), ..Default::default() };
        pod.metadata.uid = Some("u".into());
        pod.metadata.resource_version = Some("1".into());
        let mut before = None;
        save_manifest(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(load_manifest(dir.path()).as_ref(), Some(&pod));
        pod.metadata.resource_version = Some("2".into());
        save_manifest(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(
            load_manifest(dir.path()).unwrap().metadata.resource_version.as_deref(),
            Some("1"),
            "nothing to write"
        );
        pod.metadata.labels = Some([("a".to_string(), "b".to_string())].into());
        save_manifest(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(load_manifest(dir.path()).as_ref(), Some(&pod));
    }
}
