//! A pod's life on this node: one task, from the first sight of the pod to the removal of its last file.
//!
//! The task goes round: look at what is wanted and what is, do what is due ([`Worker::step`]), tell the API
//! ([`Worker::publish`]), and wait for the next event: a change of the pod, the end of a container, a probe's verdict,
//! or a time that was set. Start, restart of the agent and recovery take the same way; what differs is only what
//! [`Worker::recover`] finds on disk and in the shim.

mod admit;
mod changes;
// What objects say of times is computed with here: see `apimachinery::clock`.
#[deny(clippy::arithmetic_side_effects)]
mod end;
mod exited;
pub mod guard;
mod prepare;
#[deny(clippy::arithmetic_side_effects)]
mod probing;
mod publish;
mod recovery;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use runtime::ContainerEvent;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::container_runtime::PodContainers;
use crate::pod::context::Context;
use crate::pod::probes::ProbeResult;
use crate::pod::status;
use crate::pod::workers::Wanted;
use crate::spec::names::cgroup;
use crate::spec::{self, is_static};
use crate::state::{ContainerRecord, PodCheckpoint, PodDirs, load, load_manifest, save, save_manifest};

pub use end::delete_now;
use start::NextStart;

/// How often tokens in volumes are renewed, and ConfigMaps and Secrets looked at though nothing was heard of a change.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// How long it is waited when nothing is due by itself.
const MAX_IDLE: Duration = Duration::from_secs(3600);
/// The grace period of pods that are evicted under pressure, as upstream's hard thresholds have it.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// The wait before a step that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a step that is begun has to come to its end when its pod isn't wanted any more.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(2);

struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    uid: String,
    dirs: PodDirs,
    saved: PodCheckpoint,
    containers: Option<Arc<dyn PodContainers>>,
    events: Option<mpsc::Receiver<ContainerEvent>>,
    results: (mpsc::Sender<ProbeResult>, mpsc::Receiver<ProbeResult>),
    probes: BTreeMap<String, tokio::task::AbortHandle>,
    /// Containers that were asked to end, by id, and how long they may take.
    ending: BTreeMap<String, watch::Sender<end::GracePeriod>>,
    /// The containers that run, for those that end after others.
    running_names: watch::Sender<BTreeSet<String>>,
    volumes: Option<BTreeMap<String, std::path::PathBuf>>,
    refresh_at: Instant,
    /// The status that was written last, and the uid of the object that has it.
    published: Option<(String, serde_json::Value)>,
    /// The pod as it was written down last.
    manifest: Option<Pod>,
    /// Whether a log line says that the status can't be written.
    is_failure_logged: bool,
    /// Whether an earlier agent started containers in the sandbox: the rules of network policies for it are in the kernel already.
    is_inherited: bool,
}

/// Runs a pod until it is gone from the API and from this node.
pub async fn run(context: Arc<Context>, pod: Arc<Pod>, mut wanted: watch::Receiver<Wanted>) {
    let mut worker = Worker::new(context, pod);
    let mut is_recovered = false;
    loop {
        let handling = guard::begin(&worker.context, &worker.pod, &worker.uid, &mut wanted).await;
        if !is_recovered {
            worker.recover().await;
            is_recovered = true;
        }
        let current = wanted.borrow_and_update().clone();
        let Some(pod) = current else {
            // Deleted by force: whatever still runs is killed.
            worker.end_all(Duration::ZERO, &mut wanted).await;
            worker.unprepare_claims(&wanted).await;
            worker.remove(false).await;
            worker.context.admission.release(&worker.uid);
            return;
        };
        worker.update_pod(pod);
        if worker.pod.metadata.deletion_timestamp.is_some() {
            worker.terminate(&mut wanted).await;
            return;
        }
        worker.save_manifest();
        let wake = worker.step(&mut wanted).await;
        let wake = match worker.publish().await {
            Ok(()) => wake,
            Err(()) => wake.min(Instant::now() + RETRY_AFTER),
        };
        drop(handling);
        // While containers ended, a deletion may have been heard and not be carried out yet.
        if !is_leaving(&wanted.borrow()) {
            worker.wait(&mut wanted, wake).await;
        }
    }
}

/// Whether a pod is to go from this node.
fn is_leaving(wanted: &Wanted) -> bool {
    wanted.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

impl Worker {
    /// A worker that knows what is on disk of its pod.
    fn new(context: Arc<Context>, pod: Arc<Pod>) -> Self {
        let uid = pod.uid().unwrap_or_default();
        let dirs = PodDirs::of(&context.config, &uid);
        let saved = load(&dirs.data).unwrap_or_else(|| PodCheckpoint {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            start_time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            ..PodCheckpoint::default()
        });
        let data = dirs.data.clone();
        Worker {
            context,
            pod,
            uid,
            dirs,
            saved,
            containers: None,
            events: None,
            results: mpsc::channel(16),
            probes: BTreeMap::new(),
            ending: BTreeMap::new(),
            running_names: watch::Sender::default(),
            volumes: None,
            refresh_at: Instant::now() + RESYNC_PERIOD,
            published: None,
            manifest: load_manifest(&data),
            is_failure_logged: false,
            is_inherited: false,
        }
    }

    fn key(&self) -> String {
        format!("{}_{}", self.pod.name_any(), self.pod.namespace().unwrap_or_default())
    }

    fn announce_running(&self) {
        let running: BTreeSet<String> = self.running().into_iter().map(|(name, _)| name).collect();
        self.running_names.send_if_modified(|told| std::mem::replace(told, running.clone()) != running);
    }

    fn save(&self) {
        self.announce_running();
        if let Err(error) = save(&self.dirs.data, &self.saved) {
            tracing::error!(pod = self.key(), %error, "failed to write a pod's state to disk");
        }
    }

    /// Writes the pod down, so that it can go on while no API says it. A static one is in its own file.
    fn save_manifest(&mut self) {
        if is_static(&self.pod) {
            return;
        }
        if let Err(error) = save_manifest(&self.dirs.data, &self.pod, &mut self.manifest) {
            tracing::warn!(pod = self.key(), %error, "failed to write a pod's manifest to disk");
        }
    }

    /// The uid that the pod has in the API; a static one has none until it is mirrored.
    fn uid_in_api(&self) -> Option<String> {
        if is_static(&self.pod) { self.context.statics.mirror(&self.uid) } else { Some(self.uid.clone()) }
    }

    /// Does everything that is due now; returns when something will be due by itself.
    async fn step(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Instant {
        let far = Instant::now() + MAX_IDLE;
        if let Some(grace) = self.context.shutdown.time_left(&self.pod) {
            self.end_all(grace, wanted).await;
            if self.publish().await.is_ok() {
                self.context.shutdown.rests(&self.uid);
            }
            return far;
        }
        if self.saved.finished || status::was_over(&self.pod, &self.saved) {
            return far;
        }
        if self.context.workers.take_stale(&self.uid) {
            self.refresh_at = Instant::now();
        }
        self.take_eviction();
        let deadline = self.deadline();
        if self.saved.failed.is_none() && self.saved.evicted.is_none() {
            let late = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
            self.saved.failed = if deadline.is_some_and(|at| at <= Instant::now()) {
                Some((late.0.into(), late.1.into()))
            } else {
                let interrupted = self.interruption(wanted, Duration::ZERO);
                tokio::select! {
                    biased;
                    refused = self.admit() => refused,
                    () = interrupted => return Instant::now(),
                }
            };
        }
        if status::is_over(&self.pod, &self.saved) {
            self.finish(wanted).await;
            return far;
        }
        let interrupted = self.interruption(wanted, COMPLETION_TIMEOUT);
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            () = interrupted => return Instant::now(),
        };
        if let Err(error) = prepared {
            self.context.events.warning(self.pod.as_ref(), error.0, error.1);
            return Instant::now() + RETRY_AFTER;
        }
        self.replace_changed();
        self.resize().await;
        self.start_due(wanted, deadline.map_or(self.refresh_at, |at| at.min(self.refresh_at))).await
    }

    /// Ends what runs of a pod that is over, and removes everything but its logs.
    async fn finish(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        let is_under_pressure = self.saved.evicted.is_some() && !self.saved.preempted;
        let grace = if is_under_pressure { EVICTION_GRACE } else { end::own_grace(&self.pod) };
        self.end_all(grace, wanted).await;
        self.unprepare_claims(wanted).await;
        self.remove(true).await;
        self.saved.finished = true;
        self.save();
        // Before the API knows it, and the scheduler gives away what the pod had.
        self.context.admission.release(&self.uid);
    }

    /// Starts the containers that are due, one by one, as a deletion needn't wait for the rest; returns when the next is, or `wake`.
    async fn start_due(&mut self, wanted: &watch::Receiver<Wanted>, mut wake: Instant) -> Instant {
        while let Some(next) = self.next_start() {
            match next {
                NextStart::Now(container) => {
                    if let Err(error) = self.await_policies(wanted).await {
                        self.context.events.warning(self.pod.as_ref(), "NetworkNotReady", error);
                        return Instant::now() + RETRY_AFTER;
                    }
                    if wanted.has_changed().unwrap_or(true) {
                        return Instant::now();
                    }
                    if self.start(&container, wanted).await.is_break() {
                        return Instant::now();
                    }
                    // What runs is reported before the next one's image is waited for; if it can't be, it is later.
                    let _ = self.publish().await;
                }
                NextStart::At(at) => {
                    wake = wake.min(at);
                    break;
                }
            }
        }
        wake
    }

    /// When the pod has been active for long enough.
    fn deadline(&self) -> Option<Instant> {
        let left = end::active_left(&self.pod, &self.saved.start_time, Timestamp::now())?;
        Some(clock::deadline(Instant::now(), left))
    }

    /// Returns when what is being done for the pod isn't wanted any more: it is deleted, evicted or late, or the machine goes down. What
    /// can hardly be left half done has `patience` to come to its end.
    fn interruption(&self, wanted: &watch::Receiver<Wanted>, patience: Duration) -> impl Future<Output = ()> + use<> {
        let (context, uid, mut wanted) = (self.context.clone(), self.uid.clone(), wanted.clone());
        let late = self.deadline().filter(|_| self.saved.failed.is_none());
        async move {
            let unwanted = |pod: &Wanted| {
                is_leaving(pod)
                    || context.workers.has_eviction(&uid)
                    || pod.as_ref().is_some_and(|pod| context.shutdown.time_left(pod).is_some())
            };
            tokio::select! {
                is_stopping = async { wanted.wait_for(unwanted).await.is_err() } => if is_stopping {
                    // The manager is gone.
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => {}
            }
            tokio::time::sleep(patience).await;
        }
    }

    fn container(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        let plain = spec::started(spec).find(|c| c.name == name);
        plain.cloned().or_else(|| spec::ephemeral(&self.pod).into_iter().find(|c| c.name == name))
    }

    /// Removes what the runtime keeps of a container that has ended.
    async fn discard(&self, id: &str) {
        // A shim that died took along what it knew of the container; its files are there all the same.
        let there = self.containers.clone();
        let all = there.unwrap_or_else(|| self.context.runtime.containers(&self.dirs, self.saved.sandbox.as_ref()));
        if let Err(error) = all.delete(id).await
            && self.containers.is_some()
        {
            tracing::warn!(pod = self.key(), %error, "failed to clean up after a container");
        }
        let cgroup = self.context.runtime.container_cgroup(&cgroup(&self.context.config, &self.pod), id);
        let _ = tokio::task::spawn_blocking(move || runtime::cgroup::destroy(&cgroup)).await;
    }

    async fn wait(&mut self, wanted: &mut watch::Receiver<Wanted>, wake: Instant) {
        let has_events = self.events.is_some();
        let (context, pod, awaited) = (self.context.clone(), self.pod.clone(), self.awaited_images());
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    // The manager is gone: the agent is stopping.
                    std::future::pending::<()>().await;
                }
            }
            event = async { self.events.as_mut()?.recv().await }, if has_events => match event {
                Some(ContainerEvent::Exited { id, exit }) => self.container_exited(&id, exit).await,
                Some(ContainerEvent::Gone) | None => self.runtime_lost().await,
            },
            Some(result) = self.results.1.recv() => self.probe_result(result).await,
            image = context.images.wait_for_arrival(&pod, &awaited) => self.image_arrived(&image),
            () = tokio::time::sleep_until(wake) => {}
        }
    }

    /// The containers that wait for their images.
    fn awaited_images(&self) -> Vec<Container> {
        let waits = |run: &ContainerRecord| run.waiting.as_ref().is_some_and(|waiting| waiting.reason.is_for_image());
        let waiting = self.saved.containers.iter().filter(|(_, run)| waits(run));
        waiting.filter_map(|(name, _)| self.container(name)).collect()
    }

    /// Containers that wait for the image needn't any longer.
    fn image_arrived(&mut self, image: &str) {
        for name in self.saved.containers.keys().cloned().collect::<Vec<_>>() {
            let is_it = self.container(&name).is_some_and(|container| container.image.as_deref() == Some(image));
            if let Some(run) = self.saved.containers.get_mut(&name).filter(|_| is_it) {
                run.not_before = None;
            }
        }
    }
}
