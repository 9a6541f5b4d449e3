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
pub struct Ended {
    pub id: String,
    pub code: i32,
    pub signal: i32,
    pub oom: bool,
    pub started_at: String,
    pub finished_at: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    #[default]
    Waiting,
    Running {
        started_at: String,
    },
    Ended(Ended),
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
    /// What people are told.
    pub message: String,
}

/// A container of the pod, over all its runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// Counts from zero; the restart count.
    pub attempt: i32,
    pub id: String,
    pub image_id: String,
    pub phase: Phase,
    pub last: Option<Ended>,
    /// Runs that ended soon after one another.
    pub failures: u32,
    /// What the running container may use, and the part of its spec that said so.
    #[serde(default)]
    pub limits: Option<Limits>,
    #[serde(default)]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip)]
    pub ready: bool,
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
pub struct Saved {
    pub namespace: String,
    pub name: String,
    pub start_time: String,
    pub sandbox: Option<Sandbox>,
    pub containers: BTreeMap<String, Run>,
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
pub fn load(folder: &Path) -> Option<Saved> {
    serde_json::from_slice(&bounded::bytes(folder.join("state.json"), bounded::OWN).ok()?).ok()
}

pub fn save(folder: &Path, saved: &Saved) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    bounded::durable::replace(&folder.join("state.json"), &serde_json::to_vec(saved)?)
}

const POD: &str = "pod.json";

/// The pod of a folder, as the API said it last.
pub fn known(folder: &Path) -> Option<Pod> {
    serde_json::from_slice(&bounded::bytes(folder.join(POD), bounded::OWN).ok()?).ok()
}

/// What of a pod matters here; a version alone doesn't.
fn matters(pod: &Pod) -> (&ObjectMeta, Option<&PodSpec>, Option<&PodStatus>) {
    (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref())
}

/// Writes a pod down for times without an API. `before` is what was written last. A pod may say secrets in its environment: the file is
/// for root alone.
pub fn remember(folder: &Path, pod: &Pod, before: &mut Option<Pod>) -> std::io::Result<()> {
    let mut plain = pod.clone();
    plain.metadata.managed_fields = None;
    let mut same_version = plain.clone();
    same_version.metadata.resource_version = before.as_ref().and_then(|b| b.metadata.resource_version.clone());
    if before.as_ref().is_some_and(|before| matters(before) == matters(&same_version)) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    bounded::durable::replace(&folder.join(POD), &serde_json::to_vec(&plain)?)?;
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
        remember(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(known(dir.path()).as_ref(), Some(&pod));
        pod.metadata.resource_version = Some("2".into());
        remember(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(known(dir.path()).unwrap().metadata.resource_version.as_deref(), Some("1"), "nothing to write");
        pod.metadata.labels = Some([("a".to_string(), "b".to_string())].into());
        remember(dir.path(), &pod, &mut before).unwrap();
        assert_eq!(known(dir.path()).as_ref(), Some(&pod));
    }
}
