//! Statuses of containers.

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::phase::{any_began, began, initialized, restarts};
use crate::config::Config;
use crate::container_runtime;
use crate::spec::is_sidecar;
use crate::state::{ContainerRecord, ContainerState, PodCheckpoint, Terminated};

fn time(text: &str) -> Value {
    text.parse::<Timestamp>().map_or(Value::Null, |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into())
}

fn terminated(ended: &Terminated, runtime: &str) -> Value {
    let reason = match ended {
        e if e.oom => "OOMKilled",
        e if e.code == 128 && e.signal == 0 && !e.message.is_empty() => "StartError",
        e if e.code == 0 => "Completed",
        _ => "Error",
    };
    let mut state = json!({"exitCode": ended.code, "reason": reason, "startedAt": time(&ended.started_at),
        "finishedAt": time(&ended.finished_at), "containerID": container_id(runtime, &ended.id)});
    if !ended.message.is_empty() {
        state["message"] = ended.message.as_str().into();
    }
    json!({ "terminated": state })
}

fn container_id(runtime: &str, id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("{runtime}://{id}") }
}

/// What all statuses of a pod's containers have in common.
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What is known of its containers.
    pub saved: &'a PodCheckpoint,
    /// The node's configuration.
    pub config: &'a Config,
    /// The runtime's name.
    pub runtime: &'a str,
    /// Nothing of the pod is started again, whatever its policy.
    pub ending: bool,
    /// Why a container that wasn't begun waits.
    pub default_reason: &'static str,
}

/// Which list of the spec a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `containers`
    Main,
    /// `initContainers`
    Init,
    /// `ephemeralContainers`
    Ephemeral,
}

impl View<'_> {
    /// The statuses of a list of containers.
    pub fn statuses(&self, list: &[Container], role: Role) -> Vec<Value> {
        list.iter().map(|container| self.status(container, role)).collect()
    }

    /// How long a container waits that ends again and again, in upstream's words.
    fn back_off(&self, container: &Container, run: &ContainerRecord) -> String {
        let wait = self.config.restart_backoff.after(run.failures.saturating_sub(1));
        let meta = &self.pod.metadata;
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
        let wait = go_duration(wait.as_secs());
        format!("back-off {wait} restarting failed container={} pod={name}_{namespace}({uid})", container.name)
    }

    fn state<'a>(
        &self,
        container: &Container,
        role: Role,
        run: &'a ContainerRecord,
    ) -> (Value, Option<&'a Terminated>) {
        let waits = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let waiting = run.waiting.as_ref().map(|waiting| waits(waiting.reason.as_str(), &waiting.message));
        match &run.phase {
            ContainerState::Running { started_at } => {
                (json!({"running": {"startedAt": time(started_at)}}), run.last.as_ref())
            }
            // They are never started again.
            ContainerState::Terminated(ended)
                if role != Role::Ephemeral
                    && !self.ending
                    && restarts(self.pod, container, role == Role::Init, ended) =>
            {
                let crashes = || waits("CrashLoopBackOff", &self.back_off(container, run));
                (waiting.unwrap_or_else(crashes), Some(ended))
            }
            ContainerState::Terminated(ended) => (terminated(ended, self.runtime), run.last.as_ref()),
            ContainerState::Waiting if self.is_lost(container, role) => {
                let state = json!({"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null,
                    "message": "The container could not be located when the pod was terminated"});
                (json!({ "terminated": state }), run.last.as_ref())
            }
            ContainerState::Waiting => {
                let default = || json!({"waiting": {"reason": self.default_reason}});
                (waiting.unwrap_or_else(default), run.last.as_ref())
            }
        }
    }

    /// Whether a container of a pod that has ended never ran, or left nothing, though it could have run: controllers that count how a pod
    /// ended get an end for it (upstream's status manager).
    fn is_lost(&self, container: &Container, role: Role) -> bool {
        let later = |list: &[Container]| {
            let after = list.iter().skip_while(|c| c.name != container.name).skip(1);
            after.into_iter().any(|c| began(self.saved, c))
        };
        let init = self.pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).cloned().collect::<Vec<_>>();
        let initialized = any_began(self.pod, self.saved) || initialized(self.pod, self.saved) == Ok(true);
        self.saved.ended
            && match role {
                Role::Main => initialized,
                Role::Init => initialized || later(&init),
                Role::Ephemeral => false,
            }
    }

    fn status(&self, container: &Container, role: Role) -> Value {
        let empty = ContainerRecord::default();
        let run = self.saved.containers.get(&container.name).unwrap_or(&empty);
        let (state, last) = self.state(container, role, run);
        let runs = matches!(run.phase, ContainerState::Running { .. });
        // Of an init container, ready means that it is done.
        let done = matches!(&run.phase, ContainerState::Terminated(e) if e.code == 0);
        let ready = match role {
            Role::Init if !is_sidecar(container) => done,
            Role::Ephemeral => false,
            _ => run.ready && runs,
        };
        let mut status = json!({
            "name": container.name, "image": container.image, "imageID": run.image_id,
            "containerID": container_id(self.runtime, &run.id), "ready": ready, "started": run.started && runs,
            "restartCount": run.attempt, "state": state,
            "lastState": last.map_or(json!({}), |ended| terminated(ended, self.runtime)),
        });
        if let Some(resources) = run.resources.as_ref().filter(|_| runs) {
            status["resources"] = json!(resources);
            if let Some(requests) = &resources.requests {
                status["allocatedResources"] = json!(requests);
            }
        }
        if let Some(user) = &run.user {
            status["user"] = json!({"linux": user});
        }
        let mounts = self.mounts(container);
        if !mounts.is_empty() {
            status["volumeMounts"] = mounts.into();
        }
        status
    }

    /// How a container has its volumes: what is read-only may be so all the way down (KEP-3857).
    fn mounts(&self, container: &Container) -> Vec<Value> {
        let whole = |mount: &VolumeMount| match mount.recursive_read_only.as_deref() {
            Some("Enabled") => true,
            // Other runtimes say by handler whether they can; ours can.
            Some("IfPossible") => self.runtime == container_runtime::OWN_RUNTIME,
            _ => false,
        };
        let mount = |mount: &VolumeMount| {
            let mut told = json!({"name": mount.name, "mountPath": mount.mount_path});
            if mount.read_only == Some(true) {
                told["readOnly"] = true.into();
                told["recursiveReadOnly"] = if whole(mount) { "Enabled" } else { "Disabled" }.into();
            }
            told
        };
        container.volume_mounts.iter().flatten().map(mount).collect()
    }
}

/// Seconds as Go writes a duration: `10s`, `2m40s`, `1h0m0s`.
pub fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
