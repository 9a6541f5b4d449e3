//! Changes of what running containers may use.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::end::own_grace;
use crate::events::ContainerEvents as _;
use crate::spec::names::cgroup;
use crate::spec::{self, resources};
use crate::state::ContainerState;

impl Worker {
    /// Ends running containers whose image the spec has changed, so that they are started with the new one whatever their policy (upstream's
    /// `containerChanged`).
    pub(super) fn replace_changed(&mut self) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| spec::is_sidecar(c));
        for container in spec.containers.iter().chain(sidecars) {
            let Some(run) = self.saved.containers.get_mut(&container.name) else { continue };
            let runs = matches!(run.phase, ContainerState::Running { .. });
            // What an older kubelet started has no image written down.
            if !runs || self.ending.contains_key(&run.id) || run.image.is_none() || run.image == container.image {
                continue;
            }
            (run.is_restart_due, run.failures) = (true, 0);
            let (name, id) = (container.name.clone(), run.id.clone());
            self.save();
            let why = format!("Container {name} definition changed, will be restarted");
            self.context.events.container(&self.pod, &name, "Normal", "Killing", why);
            self.kill(&name, &id, own_grace(&self.pod).max(Duration::from_secs(1)), Vec::new());
        }
    }

    /// Gives running containers what their spec allows them now (KEP-1287).
    pub(super) async fn resize(&mut self) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let wants = |c: &Container| {
            let run =
                self.saved.containers.get(&c.name).filter(|run| matches!(run.phase, ContainerState::Running { .. }));
            run.and_then(|run| run.limits.as_ref()).is_some_and(|limits| *limits != resources::limits(c))
        };
        // Sidecars may be resized, too (KEP-753).
        let sidecars = spec.init_containers.iter().flatten().filter(|c| spec::is_sidecar(c));
        let all: Vec<Container> = spec.containers.iter().chain(sidecars).cloned().collect();
        if !all.iter().any(wants) {
            return;
        }
        // The kernel wants a whole that is larger than its parts: it grows before them, and shrinks after.
        let whole = cgroup(&self.context.config, &self.pod);
        let _ = runtime::cgroup::set_limits(&whole, &resources::pod_limits(&self.pod));
        for container in &all {
            let Some(run) = self.saved.containers.get(&container.name) else { continue };
            let wanted = resources::limits(container);
            if !matches!(run.phase, ContainerState::Running { .. }) || run.limits.as_ref().is_none_or(|l| *l == wanted)
            {
                continue;
            }
            let (id, restarts) = (run.id.clone(), resources::resize_restarts(container, run.limits.as_ref(), &wanted));
            if restarts {
                let why = format!("Container {} resize requires restart", container.name);
                self.context.events.container(&self.pod, &container.name, "Normal", "Killing", why);
                let grace = own_grace(&self.pod).max(Duration::from_secs(1));
                self.kill(&container.name, &id, grace, Vec::new());
            } else {
                let cgroup = self.context.runtime.container_cgroup(&whole, &id);
                let Some(containers) = &self.containers else { return };
                if let Err(error) = containers.update_resources(&id, &cgroup, &wanted).await {
                    let why = format!("can't set the limits of container {}: {error}", container.name);
                    self.context.events.container(&self.pod, &container.name, "Warning", "ResizeError", why);
                    continue;
                }
            }
            // Also when it is about to be restarted: it is asked once.
            if let Some(run) = self.saved.containers.get_mut(&container.name) {
                run.is_restart_due |= restarts;
                run.limits = Some(wanted);
                run.resources = container.resources.clone();
            }
            self.save();
        }
        if let Err(error) = runtime::cgroup::set_limits(&whole, &resources::pod_limits(&self.pod)) {
            let why = format!("can't set the limits of the pod: {error}");
            self.context.events.warning(self.pod.as_ref(), "ResizeError", why);
        }
    }
}
