//! Probes of the pod's containers, and what follows from them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::Worker;
use super::end::own_grace;
use crate::events::ContainerEvents as _;
use crate::pod::probes::{self, ProbeResult};
use crate::pod::status;
use crate::state::{ContainerRecord, ContainerState};

impl Worker {
    pub(super) fn probe_target(&self, container: &Container, run: &ContainerRecord) -> probes::Target {
        probes::Target {
            id: run.id.clone(),
            ip: self
                .saved
                .sandbox
                .as_ref()
                .and_then(|s| s.ips.first())
                .map_or_else(|| self.context.config.node_ip(), |ip| *ip),
            container: container.clone(),
            started: match &run.phase {
                ContainerState::Running { started_at } => moment(started_at),
                _ => Instant::now(),
            },
        }
    }

    pub(super) fn start_probes(&mut self, name: &str) {
        let (Some(container), Some(containers)) = (self.container(name), self.containers.clone()) else { return };
        let Some(run) = self.saved.containers.get(name) else { return };
        let target = self.probe_target(&container, run);
        let (started, results) = (run.started, self.results.0.clone());
        let task = tasks::until_done("probes", move || {
            probes::watch(containers.clone(), target.clone(), started, results.clone())
        });
        self.keep_probes(name, &task);
    }

    fn keep_probes(&mut self, name: &str, task: &tokio::task::JoinHandle<()>) {
        if let Some(old) = self.probes.insert(name.into(), task.abort_handle()) {
            old.abort();
        }
    }

    /// While a pod terminates, its readiness probes alone go on (KEP-1672).
    pub(super) fn probe_readiness_alone(&mut self) {
        for probes in std::mem::take(&mut self.probes).into_values() {
            probes.abort();
        }
        let Some(containers) = self.containers.clone() else { return };
        for (name, _) in self.running() {
            let (Some(container), Some(run)) = (self.container(&name), self.saved.containers.get(&name)) else {
                continue;
            };
            if run.started {
                let target = self.probe_target(&container, run);
                let (containers, results) = (containers.clone(), self.results.0.clone());
                let task = tasks::until_done("probes", move || {
                    probes::watch_readiness(containers.clone(), target.clone(), results.clone())
                });
                self.keep_probes(&name, &task);
            }
        }
    }

    pub(super) async fn probe_result(&mut self, result: ProbeResult) {
        let grace = own_grace(&self.pod).max(Duration::from_secs(1));
        let Some(run) = self.saved.containers.get_mut(&result.container).filter(|r| r.id == result.id) else {
            return;
        };
        match result.finding {
            probes::Finding::Started => {
                run.started = true;
                let readiness = self.container(&result.container).is_some_and(|c| c.readiness_probe.is_some());
                if let Some(run) = self.saved.containers.get_mut(&result.container)
                    && !readiness
                {
                    run.ready = true;
                }
            }
            probes::Finding::Ready => run.ready = result.healthy,
            probes::Finding::Failed => {
                let (name, id) = (result.container.clone(), run.id.clone());
                // As upstream has it: what is ended for its health is started again whatever its exit code, unless its policy is Never.
                let restarts = self.container(&name).is_some_and(|c| status::may_restart(&self.pod, &c));
                if let Some(run) = self.saved.containers.get_mut(&name) {
                    run.is_restart_due = restarts;
                }
                self.save();
                let follows = if restarts { ", will be restarted" } else { "" };
                let why = format!("Container {name} failed {} probe{follows}", result.probe);
                self.context.events.container(&self.pod, &name, "Normal", "Killing", why);
                self.kill(&name, &id, result.grace.unwrap_or(grace), Vec::new());
            }
            probes::Finding::Unhealthy | probes::Finding::Warning | probes::Finding::Errored => {}
        }
        let (probe, message) = (capitalized(result.probe), result.message);
        let (reason, message) = match result.finding {
            _ if message.is_empty() => return,
            probes::Finding::Warning => ("ProbeWarning", format!("{probe} probe warning: {message}")),
            probes::Finding::Errored => {
                ("Unhealthy", format!("{probe} probe errored and resulted in unknown state: {message}"))
            }
            _ if result.healthy => return,
            _ => ("Unhealthy", format!("{probe} probe failed: {message}")),
        };
        self.context.events.container(&self.pod, &result.container, "Warning", reason, message);
    }
}

/// The instant of a time that was written down.
fn moment(text: &str) -> Instant {
    let now = Instant::now();
    let ago = text.parse::<Timestamp>().map(|at| Timestamp::now().duration_since(at));
    let ago = ago.ok().and_then(|ago| Duration::try_from(ago).ok()).unwrap_or_default();
    now.checked_sub(ago).unwrap_or(now)
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
