//! Containers that share or join processes, and changes of what running ones may use.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::{Phase, Worker};
use crate::container;

impl Worker {
    /// The process namespace that a container joins, if it gets none of its own: the pod's, if its containers share one,
    /// or that of the container that an ephemeral one was made to look at.
    pub(super) async fn process_namespace(&self, name: &str) -> Result<Option<PathBuf>, String> {
        let Some(spec) = &self.pod.spec else { return Ok(None) };
        if spec.share_process_namespace == Some(true) {
            return self.shared_processes().await.map(Some);
        }
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name);
        let Some(target) = ephemeral.and_then(|c| c.target_container_name.as_ref()) else { return Ok(None) };
        let not_there = || format!("container {target:?}, which it is to look at, isn't running");
        let id = &self.saved.containers.get(target).ok_or_else(not_there)?.id;
        let shim = self.shim.as_ref().ok_or_else(not_there)?;
        let (states, _) = shim.watch().await.map_err(|e| e.to_string())?;
        let state = states.into_iter().find(|s| s.id == *id && s.exit.is_none()).ok_or_else(not_there)?;
        Ok(Some(format!("/proc/{}/ns/pid", state.pid).into()))
    }

    /// The namespace that the pod's containers share. Its first process is found again by its cgroup.
    async fn shared_processes(&self) -> Result<PathBuf, String> {
        let cgroup = format!("{}/pause", crate::sandbox::cgroup(&self.agent.config, &self.pod));
        let present = runtime::cgroup::members(&cgroup).into_iter().next();
        let pid = match present {
            Some(pid) => pid,
            None => {
                let shim = self.shim.as_ref().ok_or("the pod has no shim")?;
                let users = self.saved.sandbox.as_ref().and_then(|sandbox| sandbox.users(&self.places));
                let pid = shim
                    .share_processes(users.as_ref().map(|users| users.namespace.as_path()))
                    .await
                    .map_err(|e| e.to_string())?;
                let placed = runtime::cgroup::create(&cgroup).and_then(|()| runtime::cgroup::enter(&cgroup, pid));
                placed.map_err(|e| e.to_string())?;
                pid
            }
        };
        Ok(format!("/proc/{pid}/ns/pid").into())
    }

    /// Gives running containers what their spec allows them now (KEP-1287).
    pub(super) async fn resize(&mut self) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let wants = |c: &Container| {
            let run = self.saved.containers.get(&c.name).filter(|run| matches!(run.phase, Phase::Running { .. }));
            run.and_then(|run| run.limits.as_ref()).is_some_and(|limits| *limits != container::limits(c))
        };
        if !spec.containers.iter().any(wants) {
            return;
        }
        // The kernel wants a whole that is larger than its parts: it grows before them, and shrinks after.
        let whole = crate::sandbox::cgroup(&self.agent.config, &self.pod);
        let _ = runtime::cgroup::set_limits(&whole, &container::pod_limits(&self.pod));
        for container in &spec.containers {
            let Some(run) = self.saved.containers.get(&container.name) else { continue };
            let wanted = container::limits(container);
            if !matches!(run.phase, Phase::Running { .. }) || run.limits.as_ref().is_none_or(|l| *l == wanted) {
                continue;
            }
            let id = run.id.clone();
            if container::resize_restarts(container, run.limits.as_ref(), &wanted) {
                let why = format!("Container {} resize requires restart", container.name);
                self.agent.tell(&self.pod, &container.name, "Normal", "Killing", why);
                let grace = spec.termination_grace_period_seconds.unwrap_or(30).max(1) as u64;
                self.kill(&container.name, &id, Duration::from_secs(grace)).await;
            } else {
                let cgroup = format!("{}/{id}", crate::sandbox::cgroup(&self.agent.config, &self.pod));
                if let Err(error) = runtime::cgroup::set_limits(&cgroup, &wanted) {
                    let why = format!("can't set the limits of container {}: {error}", container.name);
                    self.agent.tell(&self.pod, &container.name, "Warning", "ResizeError", why);
                    continue;
                }
            }
            // Also when it is about to be restarted: it is asked once.
            if let Some(run) = self.saved.containers.get_mut(&container.name) {
                run.limits = Some(wanted);
                run.resources = container.resources.clone();
            }
            self.save();
        }
        if let Err(error) = runtime::cgroup::set_limits(&whole, &container::pod_limits(&self.pod)) {
            let why = format!("can't set the limits of the pod: {error}");
            self.agent.events.warning(self.pod.as_ref(), "ResizeError", why);
        }
    }
}
