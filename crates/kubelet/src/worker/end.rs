//! How containers and pods end: signals and hooks, the wait for them, and the removal of what they had.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Phase, RETRY, Worker};
use crate::engine::Stop;
use crate::manager::Wanted;
use crate::probes;

/// Between a container's signal and its end by force, however long its hook took.
const LEAST: Duration = Duration::from_secs(2);

impl Worker {
    /// Asks a container to end, and makes it once its time is over. Doesn't wait for it.
    pub(super) async fn kill(&mut self, name: &str, id: &str, grace: Duration) {
        let Some(containers) = self.containers.clone() else { return };
        let container = self.container(name);
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
        let target = container.as_ref().zip(self.saved.containers.get(name)).map(|(c, r)| self.probe_target(c, r));
        let signal = container.as_ref().and_then(|c| c.lifecycle.as_ref()?.stop_signal.clone());
        let image = self.saved.containers.get(name).map(|run| run.image_id.clone()).unwrap_or_default();
        let id = id.to_string();
        tokio::spawn(async move {
            let deadline = Instant::now() + grace;
            if let (Some(hook), Some(target)) = (hook, target)
                && !grace.is_zero()
            {
                let _ = probes::hook(&*containers, &target, &hook, grace).await;
            }
            // Whose hook took all the time has some to hear the signal, as upstream gives it.
            let left = deadline.saturating_duration_since(Instant::now()).max(grace.min(LEAST));
            containers.stop(&id, Stop { signal, image, grace: left }).await;
        });
    }

    pub(super) fn running(&self) -> Vec<(String, String)> {
        let running = self.saved.containers.iter().filter(|(_, r)| matches!(r.phase, Phase::Running { .. }));
        running.map(|(name, run)| (name.clone(), run.id.clone())).collect()
    }

    /// Ends all containers and waits until they have.
    pub(super) async fn kill_all(&mut self, grace: Duration) {
        for (name, id) in self.running() {
            self.kill(&name, &id, grace).await;
        }
        while !self.running().is_empty() {
            if !self.next_event().await {
                break;
            }
        }
    }

    /// Ends the pod as its deletion asks, tells the API, and removes everything.
    pub(super) async fn terminate(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        for probes in std::mem::take(&mut self.probes).into_values() {
            probes.abort();
        }
        let grace =
            |pod: &Pod| Duration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0) as u64);
        let mut last_grace = grace(&self.pod);
        for (name, id) in self.running() {
            self.agent.tell(&self.pod, &name, "Normal", "Killing", format!("Stopping container {name}"));
            self.kill(&name, &id, last_grace).await;
        }
        while !self.running().is_empty() {
            let _ = self.publish().await;
            tokio::select! {
                alive = self.next_event() => if !alive { break },
                _ = wanted.changed() => {
                    let current = wanted.borrow_and_update().clone();
                    let shorter = current.as_ref().map_or(Duration::ZERO, |pod| grace(pod));
                    if shorter < last_grace {
                        last_grace = shorter;
                        for (name, id) in self.running() {
                            self.kill(&name, &id, shorter).await;
                        }
                    }
                    if let Some(pod) = current {
                        self.pod = pod;
                    }
                }
            }
        }
        let _ = self.publish().await;
        self.remove(true).await;
        self.delete_from_api(wanted).await;
        let _ = std::fs::remove_dir_all(&self.places.data);
    }

    /// The last step of a deletion is the kubelet's: it tells that nothing of the pod runs any more.
    async fn delete_from_api(&self, wanted: &mut watch::Receiver<Wanted>) {
        let api: Api<Pod> = Api::namespaced(self.agent.client.clone(), &self.pod.namespace().unwrap_or_default());
        let Some(uid) = self.uid_in_api() else { return };
        let params = at_once(Some(uid));
        while wanted.borrow().is_some() {
            match api.delete(&self.pod.name_any(), &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(pod = self.key(), %error, "a pod that has ended can't be deleted from the API; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    pub(super) async fn remove(&mut self, keep_logs: bool) {
        let ids: Vec<String> =
            self.saved.containers.values().map(|r| r.id.clone()).filter(|id| !id.is_empty()).collect();
        for id in ids {
            self.discard(&id).await;
        }
        self.let_volumes_go().await;
        self.agent.remove_sandbox(&self.uid, &self.places, self.saved.sandbox.as_ref(), keep_logs).await;
        self.containers = None;
        self.events = None;
        self.saved.sandbox = None;
    }

    /// Waits until the drivers of the pod's volumes have let them go: before that nobody else may have them.
    async fn let_volumes_go(&self) {
        while let Err(error) = self.agent.unpublish(&self.uid, &self.places).await {
            self.agent.events.warning(self.pod.as_ref(), "FailedUnMount", error);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// A deletion of this very object, without a wait.
pub fn at_once(uid: Option<String>) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    }
}
