//! Probes of the pod's containers, and what follows from them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::{Run, Worker};
use crate::probes::{self, Verdict};

impl Worker {
    pub(super) fn probe_target(&self, container: &Container, run: &Run) -> probes::Target {
        probes::Target {
            id: run.id.clone(),
            ip: self
                .saved
                .sandbox
                .as_ref()
                .and_then(|s| s.ips.first())
                .map_or_else(|| self.agent.config.node_ip(), |ip| *ip),
            container: container.clone(),
        }
    }

    pub(super) fn start_probes(&mut self, name: &str) {
        let (Some(container), Some(containers)) = (self.container(name), self.containers.clone()) else { return };
        let Some(run) = self.saved.containers.get(name) else { return };
        let target = self.probe_target(&container, run);
        let task = tokio::spawn(probes::watch(containers, target, run.started, self.verdicts.0.clone()));
        if let Some(old) = self.probes.insert(name.into(), task.abort_handle()) {
            old.abort();
        }
    }

    pub(super) async fn verdict(&mut self, verdict: Verdict) {
        let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30).max(1);
        let Some(run) = self.saved.containers.get_mut(&verdict.container).filter(|r| r.id == verdict.id) else {
            return;
        };
        match verdict.kind {
            probes::Kind::Started => {
                run.started = true;
                let readiness = self.container(&verdict.container).is_some_and(|c| c.readiness_probe.is_some());
                if let Some(run) = self.saved.containers.get_mut(&verdict.container)
                    && !readiness
                {
                    run.ready = true;
                }
            }
            probes::Kind::Ready => run.ready = verdict.healthy,
            probes::Kind::Dead => {
                let name = verdict.container.clone();
                let id = run.id.clone();
                let why = format!("Container {name} failed {} probe, will be restarted", verdict.probe);
                self.agent.tell(&self.pod, &name, "Normal", "Killing", why);
                let grace = verdict.grace.unwrap_or(Duration::from_secs(grace as u64));
                self.kill(&name, &id, grace).await;
            }
            probes::Kind::Unhealthy => {}
        }
        if !verdict.healthy && !verdict.message.is_empty() {
            let message = format!("{} probe failed: {}", capitalized(verdict.probe), verdict.message);
            self.agent.tell(&self.pod, &verdict.container, "Warning", "Unhealthy", message);
        }
    }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
