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
pub mod guard;
#[deny(clippy::arithmetic_side_effects)]
mod probing;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::clock;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use runtime::ContainerEvent;
use runtime::protocol::Exit;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::container_runtime::PodContainers;
use crate::container_runtime::network;
use crate::logs;
use crate::pod::context::Context;
use crate::pod::probes::Verdict;
use crate::pod::status;
use crate::pod::workers::Wanted;
use crate::spec;
use crate::spec::is_static;
use crate::spec::names::cgroup;
use crate::spec::resources;
use crate::state::Places;
use crate::state::{Ended, Phase, Run, Saved, known, load, remember, save};
use crate::volumes;

pub use end::at_once;
use start::Due;

/// A run that was longer than this wipes earlier failures out.
const LONG_RUN: SignedDuration = SignedDuration::from_mins(10);
/// The most of a container's termination message that is kept, and of all of a pod's together, in bytes, as upstream does.
const TERMINATION_MESSAGE: usize = 4 << 10;
const TERMINATION_MESSAGES: usize = 12 << 10;
/// How often tokens in volumes are renewed, and ConfigMaps and Secrets looked at though nothing was heard of a change.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// How long containers wait for the network policies of their pod before that is told.
const POLICY_WAIT: Duration = Duration::from_secs(10);
const STATIC_POD_POLICY_WAIT: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a step that is begun has to come to its end when its pod isn't wanted any more.
const COMPLETION: Duration = Duration::from_secs(2);
/// How long the API may take to take a status in.
const PUBLISH: Duration = Duration::from_secs(10);

struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    uid: String,
    places: Places,
    saved: Saved,
    containers: Option<Arc<dyn PodContainers>>,
    events: Option<mpsc::Receiver<ContainerEvent>>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    probes: BTreeMap<String, tokio::task::AbortHandle>,
    /// Containers that were asked to end, by id, and how long they may take.
    ending: BTreeMap<String, watch::Sender<end::Time>>,
    /// The containers that run, for those that end after others.
    alive: watch::Sender<BTreeSet<String>>,
    volumes: Option<BTreeMap<String, std::path::PathBuf>>,
    refresh_at: Instant,
    /// What the API was told last, and of which object of it.
    published: Option<(String, serde_json::Value)>,
    /// The pod as it was written down last.
    remembered: Option<Pod>,
    /// Whether somebody was told that the status can't be written.
    told: bool,
    /// Whether an earlier agent started containers in the sandbox: the rules of network policies for it are in the kernel already.
    is_inherited: bool,
}

/// Runs a pod until it is gone from the API and from this node.
pub async fn run(context: Arc<Context>, pod: Arc<Pod>, mut wanted: watch::Receiver<Wanted>) {
    let uid = pod.uid().unwrap_or_default();
    let places = Places::of(&context.config, &uid);
    let saved = load(&places.data).unwrap_or_else(|| Saved {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        start_time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        ..Saved::default()
    });
    let places_data = places.data.clone();
    let mut worker = Worker {
        context,
        pod,
        uid,
        places,
        saved,
        containers: None,
        events: None,
        verdicts: mpsc::channel(16),
        probes: BTreeMap::new(),
        ending: BTreeMap::new(),
        alive: watch::Sender::default(),
        volumes: None,
        refresh_at: Instant::now() + RESYNC_PERIOD,
        published: None,
        remembered: known(&places_data),
        told: false,
        is_inherited: false,
    };
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
            worker.remove(false).await;
            worker.context.admission.admitted.release(&worker.uid);
            return;
        };
        worker.take(pod);
        if worker.pod.metadata.deletion_timestamp.is_some() {
            worker.terminate(&mut wanted).await;
            return;
        }
        worker.remember();
        let wake = worker.step(&mut wanted).await;
        let wake = match worker.publish().await {
            Ok(()) => wake,
            Err(()) => wake.min(Instant::now() + RETRY_AFTER),
        };
        drop(handling);
        // While containers ended, a deletion may have been heard and not be carried out yet.
        if !leaves(&wanted.borrow()) {
            worker.wait(&mut wanted, wake).await;
        }
    }
}

/// Whether a pod is to go from this node.
fn leaves(wanted: &Wanted) -> bool {
    wanted.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

impl Worker {
    fn key(&self) -> String {
        format!("{}_{}", self.pod.name_any(), self.pod.namespace().unwrap_or_default())
    }

    fn tell_who_runs(&self) {
        let running: BTreeSet<String> = self.running().into_iter().map(|(name, _)| name).collect();
        self.alive.send_if_modified(|told| std::mem::replace(told, running.clone()) != running);
    }

    fn save(&self) {
        self.tell_who_runs();
        if let Err(error) = save(&self.places.data, &self.saved) {
            tracing::error!(pod = self.key(), %error, "failed to write a pod's state to disk");
        }
    }

    /// Writes the pod down, so that it can go on while no API says it. A static one is in its own file.
    fn remember(&mut self) {
        if is_static(&self.pod) {
            return;
        }
        if let Err(error) = remember(&self.places.data, &self.pod, &mut self.remembered) {
            tracing::warn!(pod = self.key(), %error, "failed to write a pod's manifest to disk");
        }
    }

    /// The uid that the pod has in the API; a static one has none until it is mirrored.
    fn uid_in_api(&self) -> Option<String> {
        if is_static(&self.pod) { self.context.statics.mirror(&self.uid) } else { Some(self.uid.clone()) }
    }

    /// Takes up what an earlier agent left: running containers, or nothing after a reboot.
    async fn recover(&mut self) {
        if self.saved.containers.is_empty() {
            return;
        }
        let containers = self.context.runtime.containers(&self.places, self.saved.sandbox.as_ref());
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
                    let is_running = matches!(self.saved.containers[&name].phase, Phase::Running { .. });
                    match (state.exit, is_running) {
                        (Some(exit), true) => self.ended(&state.id, exit).await,
                        (None, false) => {
                            let container = self.container(&name);
                            if let Some(run) = self.saved.containers.get_mut(&name) {
                                run.phase = Phase::Running { started_at: state.started_at };
                                run.waiting = None;
                                run.limits = container.as_ref().map(resources::limits);
                                run.resources = container.and_then(|container| container.resources);
                            }
                        }
                        _ => {}
                    }
                }
            }
            Err(_) => self.all_are_gone().await,
        }
        let running: Vec<String> = self
            .saved
            .containers
            .iter()
            .filter(|(_, r)| matches!(r.phase, Phase::Running { .. }))
            .map(|(n, _)| n.clone())
            .collect();
        for name in running {
            // Ready as it was last told; the probes will tell otherwise soon if it isn't so.
            let before = self.pod.status.iter();
            let before = before.flat_map(|s| [&s.container_statuses, &s.init_container_statuses]).flatten().flatten();
            let before = before.into_iter().find(|s| s.name == name).cloned();
            let container = self.container(&name);
            let waits = container.as_ref().is_some_and(|c| c.startup_probe.is_some());
            let is_probed = container.is_some_and(|c| c.readiness_probe.is_some());
            if let Some(run) = self.saved.containers.get_mut(&name) {
                run.started = !waits || before.as_ref().is_some_and(|s| s.started == Some(true));
                // Of one that was started just before a crash nothing was told, and without a probe nothing will be.
                run.ready = run.started && (!is_probed || before.is_some_and(|s| s.ready));
            }
            self.start_probes(&name);
        }
    }

    /// Whoever had the containers is gone, and they with it: what ran has ended.
    async fn all_are_gone(&mut self) {
        self.containers = None;
        self.events = None;
        let lost: Vec<String> = self
            .saved
            .containers
            .values()
            .filter(|r| matches!(r.phase, Phase::Running { .. }))
            .map(|r| r.id.clone())
            .collect();
        runtime::cgroup::kill_all(&cgroup(&self.context.config, &self.pod));
        for id in lost {
            let at = Timestamp::now().to_string();
            self.ended(&id, Exit { code: 137, signal: 0, oom: false, at }).await;
        }
        let _ = runtime::remove_tree(&self.places.run.join("oci"));
    }

    /// Does everything that is due now; returns when something will be due by itself.
    async fn step(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
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
        self.heed_eviction();
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
            let is_short = self.saved.evicted.is_some() && !self.saved.preempted;
            let grace = if is_short { Duration::from_secs(1) } else { end::own_grace(&self.pod) };
            self.end_all(grace, wanted).await;
            self.remove(true).await;
            self.saved.finished = true;
            self.save();
            // Before the API knows it, and the scheduler gives away what the pod had.
            self.context.admission.admitted.release(&self.uid);
            return far;
        }
        let interrupted = self.interruption(wanted, COMPLETION);
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            () = interrupted => return Instant::now(),
        };
        if let Err(error) = prepared {
            self.context.events.warning(self.pod.as_ref(), error.0, error.1);
            return Instant::now() + RETRY_AFTER;
        }
        self.resize().await;
        let mut wake = deadline.map_or(self.refresh_at, |at| at.min(self.refresh_at));
        // Containers are started one by one, and a deletion needn't wait for the rest.
        while let Some(next) = self.next_start() {
            match next {
                Due::Now(container) => {
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
                    // What runs is told before the next one's image is waited for; if it can't be, it is later.
                    let _ = self.publish().await;
                }
                Due::At(at) => {
                    wake = wake.min(at);
                    break;
                }
            }
        }
        wake
    }

    /// Waits until the network policies that select the pod are in force, or the pod is wanted otherwise.
    async fn await_policies(&self, wanted: &watch::Receiver<Wanted>) -> Result<(), &'static str> {
        let mut changes = wanted.clone();
        let is_static = is_static(&self.pod);
        // As long as the API says nothing, rules of before are in force, as those of other nodes are.
        let is_cut_off = !self.context.api_synced.load(std::sync::atomic::Ordering::Relaxed);
        let goes_on = is_static || (self.is_inherited && is_cut_off);
        let permitted = async {
            tokio::select! {
                () = self.context.local.permitted(&self.uid) => {}
                _ = changes.changed() => {}
            }
        };
        match tokio::time::timeout(if goes_on { STATIC_POD_POLICY_WAIT } else { POLICY_WAIT }, permitted).await {
            Ok(()) => Ok(()),
            // Pods of this machine's administrator may be what the API itself needs, which alone can say what policies there are.
            Err(_) if goes_on => Ok(()),
            Err(_) => Err("the rules of network policies aren't in force on this node"),
        }
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
                leaves(pod)
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

    /// Sandbox and volumes.
    async fn prepare(&mut self) -> Result<(), (&'static str, String)> {
        // As long as the containers can be watched, what they share is there.
        let whole = match &self.saved.sandbox {
            Some(sandbox) => {
                self.containers.is_some() || self.context.runtime.is_sandbox_ready(&self.places, sandbox).await
            }
            None => false,
        };
        if !whole {
            self.is_inherited = false;
            let made = self.context.make_sandbox(&self.pod, &self.places, self.saved.sandbox.as_ref()).await;
            let sandbox = made.map_err(|e| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}")))?;
            if self.saved.sandbox.replace(sandbox).is_some() {
                self.begin_anew().await;
            }
            self.save();
        }
        if let Some(sandbox) = self.saved.sandbox.as_ref().filter(|sandbox| !sandbox.host_network) {
            let mut pod = network::local(&self.pod, &sandbox.ips);
            pod.uid.clone_from(&self.uid);
            self.context.local.add(pod);
        }
        if self.volumes.is_none() || Instant::now() >= self.refresh_at {
            let ips = self.saved.sandbox.as_ref().map(|s| s.ips.clone()).unwrap_or_default();
            let first = self.volumes.is_none();
            if first {
                self.context.watches.add(&self.uid, &self.pod);
            }
            let request = volumes::Request { pod: &self.pod, places: &self.places, ips: &ips, first };
            let prepared = self.context.volumes.prepare(request).await;
            self.refresh_at = Instant::now() + RESYNC_PERIOD;
            match prepared {
                Ok(volumes) => self.volumes = Some(volumes),
                // What was there at the start may go away later without harm to the running containers.
                Err(_) if self.volumes.is_some() => {}
                Err(error) => return Err(("FailedMount", error.to_string())),
            }
        }
        if self.containers.is_none()
            && let Some(sandbox) = &self.saved.sandbox
        {
            let fail = |e: std::io::Error| ("FailedCreatePodSandBox", e.to_string());
            let containers = self.context.runtime.prepare_containers(&self.places, sandbox).await.map_err(fail)?;
            let (_, events) = containers.watch().await.map_err(fail)?;
            self.containers = Some(containers);
            self.events = Some(events);
        }
        Ok(())
    }

    /// After a reboot nothing is left of what init containers did outside the pod's volumes, or in those that are in memory:
    /// all of them run again before the others.
    async fn begin_anew(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        for container in spec.init_containers.iter().flatten() {
            let Some(run) = self.saved.containers.get_mut(&container.name) else { continue };
            let Phase::Ended(ended) = std::mem::take(&mut run.phase) else { continue };
            let id = ended.id.clone();
            *run = Run { attempt: run.attempt + 1, last: Some(ended), ..Run::default() };
            self.discard(&id).await;
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
        let all = there.unwrap_or_else(|| self.context.runtime.containers(&self.places, self.saved.sandbox.as_ref()));
        if let Err(error) = all.delete(id).await
            && self.containers.is_some()
        {
            tracing::warn!(pod = self.key(), %error, "failed to clean up after a container");
        }
        let cgroup = self.context.runtime.container_cgroup(&cgroup(&self.context.config, &self.pod), id);
        let _ = tokio::task::spawn_blocking(move || runtime::cgroup::destroy(&cgroup)).await;
    }

    async fn ended(&mut self, id: &str, exit: Exit) {
        let Some((name, run)) = self.saved.containers.iter_mut().find(|(_, r)| r.id == id) else { return };
        let Phase::Running { started_at } = &run.phase else { return };
        let started_at = started_at.clone();
        let long = match (started_at.parse::<Timestamp>(), exit.at.parse::<Timestamp>()) {
            (Ok(start), Ok(end)) => end.duration_since(start) > LONG_RUN,
            _ => false,
        };
        run.failures = if long { 0 } else { run.failures };
        run.not_before = Some(Instant::now() + self.context.config.restart_backoff.after(run.failures));
        run.failures += 1;
        run.ready = false;
        run.started = false;
        let name = name.clone();
        let attempt = run.attempt;
        let message = self.termination_message(&name, attempt, exit.code);
        let Some(run) = self.saved.containers.get_mut(&name) else { return };
        run.phase = Phase::Ended(Ended {
            id: id.into(),
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
            started_at,
            finished_at: exit.at,
            message,
        });
        if let Some(probes) = self.probes.remove(&name) {
            probes.abort();
        }
        // Whoever waits with its end by force needn't any more.
        self.ending.remove(id);
        self.save();
    }

    /// What a container left in its file, or in its log if it failed without leaving anything.
    fn termination_message(&self, name: &str, attempt: i32, code: i32) -> String {
        let count = self.pod.spec.as_ref().map_or(0, |spec| {
            spec.containers.len()
                + spec.init_containers.iter().flatten().count()
                + spec.ephemeral_containers.iter().flatten().count()
        });
        let limit = TERMINATION_MESSAGE.min(TERMINATION_MESSAGES / count.max(1));
        let file = self.places.termination_message(name, attempt);
        let message = logs::end_of_file(&file, limit).unwrap_or_default();
        let policy = self.container(name).and_then(|c| c.termination_message_policy);
        if message.is_empty() && code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            return logs::last_words(&self.places.log(name, attempt), limit).unwrap_or_default();
        }
        message
    }

    /// Writes the pod's status if it changed.
    async fn publish(&mut self) -> Result<(), ()> {
        if status::was_over(&self.pod, &self.saved) {
            return Ok(());
        }
        let status =
            status::compute(&self.pod, &self.saved, &self.context.config, &self.context.runtime.version().name);
        let Some(uid) = self.uid_in_api() else { return Ok(()) };
        let news = (uid, status);
        if self.published.as_ref() == Some(&news) {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.pod.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": news.0}, "status": news.1});
        let (name, how, patch) = (self.pod.name_any(), PatchParams::default(), Patch::Merge(patch));
        // Containers aren't kept waiting for an API that doesn't answer.
        let why = match tokio::time::timeout(PUBLISH, api.patch_status(&name, &how, &patch)).await {
            Ok(Ok(_)) => {
                self.published = Some(news);
                self.told = false;
                return Ok(());
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 && self.is_replaced(&api).await => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PUBLISH:?}"),
        };
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(pod = self.key(), why, "failed to update a pod's status; retrying");
        }
        Err(())
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
                Some(ContainerEvent::Exited { id, exit }) => self.ended(&id, exit).await,
                Some(ContainerEvent::Gone) | None => self.all_are_gone().await,
            },
            Some(verdict) = self.verdicts.1.recv() => self.verdict(verdict).await,
            image = context.images.arrival(&pod, &awaited) => self.image_came(&image),
            () = tokio::time::sleep_until(wake) => {}
        }
    }

    /// The containers that wait for their images.
    fn awaited_images(&self) -> Vec<Container> {
        let waits = |run: &Run| run.waiting.as_ref().is_some_and(|waiting| waiting.reason.is_for_image());
        let waiting = self.saved.containers.iter().filter(|(_, run)| waits(run));
        waiting.filter_map(|(name, _)| self.container(name)).collect()
    }

    /// Who waits for the image needn't any longer.
    fn image_came(&mut self, image: &str) {
        for name in self.saved.containers.keys().cloned().collect::<Vec<_>>() {
            let is_it = self.container(&name).is_some_and(|container| container.image.as_deref() == Some(image));
            if let Some(run) = self.saved.containers.get_mut(&name).filter(|_| is_it) {
                run.not_before = None;
            }
        }
    }
}
