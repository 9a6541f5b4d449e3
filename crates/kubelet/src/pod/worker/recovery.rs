//! What a restarted kubelet, or a rebooted machine, finds of a pod.

use k8s_openapi::jiff::Timestamp;
use runtime::protocol::Exit;

use super::Worker;
use crate::spec::names::cgroup;
use crate::spec::resources;
use crate::state::{ContainerRecord, ContainerState};

impl Worker {
    /// Takes up what an earlier agent left: running containers, or nothing after a reboot.
    pub(super) async fn recover(&mut self) {
        if self.saved.containers.is_empty() {
            return;
        }
        let containers = self.context.runtime.containers(&self.dirs, self.saved.sandbox.as_ref());
        match containers.watch().await {
            Ok((states, events)) => {
                self.containers = Some(containers);
                self.events = Some(events);
                self.is_inherited = !states.is_empty();
                for state in states {
                    let known = self.saved.containers.iter().find(|(_, r)| r.id == state.id).map(|(n, _)| n.clone());
                    let Some(name) = known else {
                        // Made by an agent that died before it could write down its id, or one whose removal it didn't see through.
                        self.discard(&state.id).await;
                        continue;
                    };
                    let is_running = matches!(self.saved.containers[&name].phase, ContainerState::Running { .. });
                    match (state.exit, is_running) {
                        (Some(exit), true) => self.container_exited(&state.id, exit).await,
                        (None, false) => {
                            let container = self.container(&name);
                            if let Some(run) = self.saved.containers.get_mut(&name) {
                                run.phase = ContainerState::Running { started_at: state.started_at };
                                run.waiting = None;
                                run.limits = container.as_ref().map(resources::limits);
                                run.image = container.as_ref().and_then(|container| container.image.clone());
                                run.resources = container.and_then(|container| container.resources);
                            }
                        }
                        _ => {}
                    }
                }
            }
            Err(_) => self.runtime_lost().await,
        }
        self.resume_probes();
    }

    /// Probes what runs again, which begins as ready as it was.
    fn resume_probes(&mut self) {
        let running: Vec<String> = self
            .saved
            .containers
            .iter()
            .filter(|(_, r)| matches!(r.phase, ContainerState::Running { .. }))
            .map(|(n, _)| n.clone())
            .collect();
        for name in running {
            // Ready as the status said last; the probes will find out soon if it isn't so.
            let before = self.pod.status.iter();
            let before = before.flat_map(|s| [&s.container_statuses, &s.init_container_statuses]).flatten().flatten();
            let before = before.into_iter().find(|s| s.name == name).cloned();
            let container = self.container(&name);
            let waits = container.as_ref().is_some_and(|c| c.startup_probe.is_some());
            let is_probed = container.is_some_and(|c| c.readiness_probe.is_some());
            if let Some(run) = self.saved.containers.get_mut(&name) {
                // Who asked for its end then asks again if that is still so.
                run.is_restart_due = false;
                run.started = !waits || before.as_ref().is_some_and(|s| s.started == Some(true));
                // The status doesn't have one that was started just before a crash; without a probe it is ready.
                run.ready = run.started && (!is_probed || before.is_some_and(|s| s.ready));
            }
            self.start_probes(&name);
        }
    }

    /// The shim or runtime that had the containers is gone, and they with it: what ran has ended.
    pub(super) async fn runtime_lost(&mut self) {
        self.containers = None;
        self.events = None;
        let lost: Vec<String> = self
            .saved
            .containers
            .values()
            .filter(|r| matches!(r.phase, ContainerState::Running { .. }))
            .map(|r| r.id.clone())
            .collect();
        runtime::cgroup::kill_all(&cgroup(&self.context.config, &self.pod));
        for id in lost {
            let at = Timestamp::now().to_string();
            self.container_exited(&id, Exit { code: 137, signal: 0, oom: false, at }).await;
        }
        let _ = runtime::remove_tree(&self.dirs.run.join("oci"));
    }

    /// After a reboot nothing is left of what init containers did outside the pod's volumes, or in those that are in memory:
    /// all of them run again before the others.
    pub(super) async fn rerun_init_containers(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        for container in spec.init_containers.iter().flatten() {
            let Some(run) = self.saved.containers.get_mut(&container.name) else { continue };
            let ContainerState::Terminated(ended) = std::mem::take(&mut run.phase) else { continue };
            let id = ended.id.clone();
            *run = ContainerRecord { attempt: run.attempt + 1, last: Some(ended), ..ContainerRecord::default() };
            self.discard(&id).await;
        }
    }
}
