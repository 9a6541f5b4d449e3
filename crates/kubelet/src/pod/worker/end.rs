//! How containers and pods end: signals and hooks, the wait for them, and the removal of what they had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};
use runtime::ContainerEvent;
use tokio::sync::watch;
use tokio::time::Instant;

use super::publish::PUBLISH_TIMEOUT;
use super::{RETRY_AFTER, Worker, is_leaving};
use crate::container_runtime::{PodContainers, StopOptions};
use crate::events::ContainerEvents as _;
use crate::pod::context::Context;
use crate::pod::probes;
use crate::pod::workers::Wanted;
use crate::spec::is_sidecar;
use crate::state::ContainerState;

/// Between a container's signal and its end by force, however long its hook took.
const MIN_GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);
/// How long after a pod's grace period the runtime may take to report its containers' exit; then all processes in the pod's cgroup are killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a container may take to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GracePeriod {
    until: Instant,
    grace: Duration,
}

impl GracePeriod {
    fn of(grace: Duration) -> Self {
        GracePeriod { until: clock::deadline(Instant::now(), grace), grace }
    }

    /// What is left. A container that waited for its hook or its turn until now still has the minimum after its signal, as upstream has it.
    fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(self.grace.min(MIN_GRACE_AFTER_HOOK))
    }
}

/// What its own object says of a pod's time to end.
pub(super) fn own_grace(pod: &Pod) -> Duration {
    clock::seconds(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30))
}

/// How long a pod may take to end, once its deletion is asked for; none when it is gone from the API.
fn asked_grace(pod: Option<&Pod>) -> Duration {
    pod.map_or(Duration::ZERO, |pod| clock::seconds(pod.metadata.deletion_grace_period_seconds.unwrap_or(30)))
}

/// How long a pod may still be active, if it says so; nothing when it has been for long enough.
pub(super) fn active_left(pod: &Pod, start: &str, now: Timestamp) -> Option<Duration> {
    let most = SignedDuration::from_secs(pod.spec.as_ref()?.active_deadline_seconds?);
    let left = most.saturating_sub(now.duration_since(start.parse().ok()?));
    Some(Duration::try_from(left).unwrap_or_default())
}

/// The containers that end before `name` gets its signal (KEP-753): a sidecar waits for the main containers and for the sidecars that were
/// started after it.
fn before(spec: &PodSpec, name: &str) -> Vec<String> {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let Some(at) = init.iter().position(|c| c.name == name && is_sidecar(c)) else { return Vec::new() };
    let later = init.iter().skip(at).skip(1).filter(|c| is_sidecar(c));
    spec.containers.iter().chain(later).map(|c| c.name.clone()).collect()
}

/// One container on its way to its end.
struct Termination {
    context: Arc<Context>,
    pod: Arc<Pod>,
    containers: Arc<dyn PodContainers>,
    name: String,
    id: String,
    hook: Option<(LifecycleHandler, probes::Target)>,
    signal: Option<String>,
    image: String,
    /// The containers that end before it, and those that run now.
    before: Vec<String>,
    running: watch::Receiver<BTreeSet<String>>,
}

impl Termination {
    /// The hook runs at once, and may use the containers that end later; the signal waits for its turn. Ends with the container, or
    /// when `time` is over.
    async fn run(mut self, mut time: watch::Receiver<GracePeriod>) {
        let mut forced = time.borrow().grace.is_zero();
        if let Some((hook, target)) = self.hook.take().filter(|_| !forced) {
            let limit = time.borrow().grace;
            let failed = tokio::select! {
                outcome = probes::run_hook(&*self.containers, &target, &hook, limit) => {
                    self.context.hook_fell_back(&self.pod, &outcome);
                    outcome.is_err()
                }
                () = expired(&mut time) => true,
            };
            // The container may have ended by itself meanwhile.
            if failed && time.has_changed().is_ok() {
                self.context.events.container(
                    &self.pod,
                    &self.name,
                    "Warning",
                    "FailedPreStopHook",
                    "PreStopHook failed",
                );
            }
        }
        forced |= self.before.is_empty();
        if !forced {
            let turn = self.running.wait_for(|running| !self.before.iter().any(|name| running.contains(name)));
            tokio::select! {
                _ = turn => {}
                () = expired(&mut time) => {}
            }
        }
        loop {
            if time.has_changed().is_err() {
                return;
            }
            let grace = time.borrow_and_update().left();
            let stop = StopOptions { signal: self.signal.clone(), image: self.image.clone(), grace };
            tokio::select! {
                () = self.containers.stop(&self.id, stop) => return,
                shorter = time.changed() => if shorter.is_err() { return },
            }
        }
    }
}

/// Returns when the time is over, which may become shorter meanwhile, or when the container has ended (the sender is gone).
async fn expired(time: &mut watch::Receiver<GracePeriod>) {
    loop {
        let until = time.borrow_and_update().until;
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            shorter = time.changed() => if shorter.is_err() { return },
        }
    }
}

impl Worker {
    /// Asks a container to end, and makes it once its time is over. Doesn't wait for it. Asked again, only the time may become shorter.
    pub(super) fn kill(&mut self, name: &str, id: &str, grace: Duration, before: Vec<String>) {
        let asked = GracePeriod::of(grace);
        if let Some(present) = self.ending.get(id) {
            present.send_if_modified(|time| {
                let shorter = asked.until < time.until;
                if shorter {
                    *time = asked;
                }
                shorter
            });
            return;
        }
        let Some(containers) = self.containers.clone() else { return };
        let container = self.container(name);
        let lifecycle = container.as_ref().and_then(|c: &Container| c.lifecycle.clone()).unwrap_or_default();
        let run = self.saved.containers.get(name);
        let target = container.as_ref().zip(run).map(|(c, r)| self.probe_target(c, r));
        let end = Termination {
            context: self.context.clone(),
            pod: self.pod.clone(),
            containers,
            name: name.into(),
            id: id.into(),
            hook: lifecycle.pre_stop.zip(target),
            signal: lifecycle.stop_signal,
            image: run.map(|run| run.image_id.clone()).unwrap_or_default(),
            before,
            running: self.running_names.subscribe(),
        };
        let (sender, time) = watch::channel(asked);
        self.ending.insert(id.into(), sender);
        tasks::spawn("container-end", end.run(time));
    }

    pub(super) fn running(&self) -> Vec<(String, String)> {
        let running = self.saved.containers.iter().filter(|(_, r)| matches!(r.phase, ContainerState::Running { .. }));
        running.map(|(name, run)| (name.clone(), run.id.clone())).collect()
    }

    fn end_within(&mut self, grace: Duration) {
        self.announce_running();
        let spec = self.pod.spec.clone().unwrap_or_default();
        for (name, id) in self.running() {
            self.kill(&name, &id, grace, before(&spec, &name));
        }
    }

    /// Ends all containers, sidecars last, and waits until they have ended. A deletion may make their grace period shorter meanwhile. When the
    /// runtime doesn't report their exit long after it, they are killed by their cgroup.
    pub(super) async fn end_all(&mut self, grace: Duration, wanted: &mut watch::Receiver<Wanted>) {
        let mut time = GracePeriod::of(grace);
        self.probe_readiness_alone();
        self.end_within(grace);
        loop {
            let running = self.running().len();
            if running == 0 || self.events.is_none() {
                return;
            }
            let _ = self.publish().await;
            // Each of them may wait for others, and has its last moments after that.
            let turns = MIN_GRACE_AFTER_HOOK.saturating_mul(u32::try_from(running).unwrap_or(u32::MAX));
            let last = clock::deadline(time.until, KILL_TIMEOUT.saturating_add(turns));
            tokio::select! {
                event = async { self.events.as_mut()?.recv().await } => match event {
                    Some(ContainerEvent::Exited { id, exit }) => self.container_exited(&id, exit).await,
                    Some(ContainerEvent::Gone) | None => self.runtime_lost().await,
                },
                Some(result) = self.results.1.recv() => self.probe_result(result).await,
                changed = wanted.changed() => {
                    if changed.is_err() {
                        // The manager is gone: the agent is stopping.
                        std::future::pending::<()>().await;
                    }
                    let current = wanted.borrow_and_update().clone();
                    let asked = GracePeriod::of(asked_grace(current.as_deref()));
                    if is_leaving(&current) && asked.until < time.until {
                        time = asked;
                        self.end_within(asked.grace);
                    }
                    if let Some(pod) = current {
                        self.pod = pod;
                    }
                }
                () = tokio::time::sleep_until(last) => {
                    tracing::warn!(pod = self.key(), "containers didn't exit within the grace period; killing the pod's cgroup");
                    self.runtime_lost().await;
                }
            }
        }
    }

    /// Ends the pod as its deletion asks, writes its status, and removes everything.
    pub(super) async fn terminate(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        for (name, _) in self.running() {
            self.context.events.container(&self.pod, &name, "Normal", "Killing", format!("Stopping container {name}"));
        }
        self.end_all(asked_grace(Some(&self.pod.clone())), wanted).await;
        for (_, probes) in std::mem::take(&mut self.probes) {
            probes.abort();
        }
        self.unprepare_claims(wanted).await;
        self.saved.ended = true;
        // Before the API knows that it is over, and the scheduler gives away what the pod had.
        self.context.admission.release(&self.uid);
        while self.publish().await.is_err() && wanted.borrow().is_some() {
            tokio::time::sleep(RETRY_AFTER).await;
        }
        self.remove(true).await;
        self.delete_from_api(wanted).await;
        let data = self.dirs.data.clone();
        let _ = tokio::task::spawn_blocking(move || runtime::remove_tree(&data)).await;
    }

    /// The last step of a deletion is the kubelet's: it says that nothing of the pod runs any more.
    async fn delete_from_api(&self, wanted: &mut watch::Receiver<Wanted>) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.pod.namespace().unwrap_or_default());
        let Some(uid) = self.uid_in_api() else { return };
        let params = delete_now(Some(uid));
        while wanted.borrow().is_some() {
            let error = match tokio::time::timeout(PUBLISH_TIMEOUT, api.delete(&self.pod.name_any(), &params)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
                Ok(Err(kube::Error::Api(status))) if status.code == 409 && self.is_replaced(&api).await => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PUBLISH_TIMEOUT:?}"),
            };
            tracing::warn!(pod = self.key(), error, "failed to delete a terminated pod from the API; retrying");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Whether the pod is gone from the API, or another one has its name. A conflict may be that, or another client's write, after
    /// which the next try succeeds.
    pub(super) async fn is_replaced(&self, api: &Api<Pod>) -> bool {
        match tokio::time::timeout(PUBLISH_TIMEOUT, api.get_metadata_opt(&self.pod.name_any())).await {
            Ok(Ok(found)) => found.and_then(|pod| pod.metadata.uid) != self.uid_in_api(),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    pub(super) async fn remove(&mut self, keep_logs: bool) {
        for probes in std::mem::take(&mut self.probes).into_values() {
            probes.abort();
        }
        let ids: Vec<String> =
            self.saved.containers.values().map(|r| r.id.clone()).filter(|id| !id.is_empty()).collect();
        for id in ids {
            self.discard(&id).await;
        }
        self.context.watches.remove(&self.uid);
        self.unmount_volumes().await;
        self.context.remove_sandbox(&self.uid, &self.dirs, self.saved.sandbox.as_ref(), keep_logs).await;
        self.containers = None;
        self.events = None;
        self.saved.sandbox = None;
    }

    /// Waits until the drivers of the pod's claims have taken their devices back: before that no other pod may have them. What is left of a pod
    /// that is deleted by force is tried again later.
    pub(super) async fn unprepare_claims(&self, wanted: &watch::Receiver<Wanted>) {
        while let Err(error) = self.context.claims.unprepare(&self.uid).await {
            let text = format!("Failed to unprepare dynamic resources: {error}");
            self.context.events.warning(self.pod.as_ref(), "FailedUnprepareDynamicResources", text);
            if wanted.borrow().is_none() {
                return;
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Waits until the CSI volumes of the pod are unpublished: before that no other pod may have them.
    async fn unmount_volumes(&self) {
        while let Err(error) = self.context.volumes.unpublish(&self.uid, &self.dirs).await {
            self.context.events.warning(self.pod.as_ref(), "FailedUnMount", error.to_string());
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// A deletion of this very object, without a wait.
pub fn delete_now(uid: Option<String>) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_wait_for_the_main_containers_and_for_those_after_them() {
        let spec = json!({"initContainers": [{"name": "first", "restartPolicy": "Always"}, {"name": "plain"},
            {"name": "second", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(before(&spec, "first"), ["a", "b", "second"]);
        assert_eq!(before(&spec, "second"), ["a", "b"]);
        for name in ["a", "b", "plain", "nobody"] {
            assert!(before(&spec, name).is_empty(), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn extremes_of_every_time_are_borne() {
        for seconds in [i64::MIN, -1, 0, 1, 30, i64::from(i32::MAX), i64::MAX] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"deletionGracePeriodSeconds": seconds},
                "spec": {"containers": [], "terminationGracePeriodSeconds": seconds, "activeDeadlineSeconds": seconds}}))
            .unwrap();
            for grace in [own_grace(&pod), asked_grace(Some(&pod))] {
                assert_eq!(grace.is_zero(), seconds <= 0, "{seconds}");
                let time = GracePeriod::of(grace);
                assert!(time.until >= Instant::now() && time.left() <= clock::LONGEST, "{seconds}");
            }
            for start in ["0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "9999-01-01T00:00:00Z"] {
                let left = active_left(&pod, start, Timestamp::now()).unwrap();
                assert!(clock::deadline(Instant::now(), left) >= Instant::now(), "{seconds} {start}");
            }
        }
        assert!(asked_grace(None).is_zero());
        let mut time = watch::channel(GracePeriod::of(Duration::from_secs(600)));
        let begun = Instant::now();
        time.0.send_replace(GracePeriod::of(Duration::from_secs(5)));
        expired(&mut time.1).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5), "what is shorter now ends sooner");
    }
}
