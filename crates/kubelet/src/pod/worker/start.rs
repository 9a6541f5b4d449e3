//! Which container is started next, and how.

use std::collections::BTreeMap;
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use crate::container_runtime::Stop;
use crate::container_runtime::launch::config_error;
use crate::container_runtime::launch::{Launch, StartError, new_id};
use crate::environment;
use crate::events::ContainerEvents as _;
use crate::pod::workers::Wanted;
use crate::pod::{probes, status};
use crate::spec::{self, resources};
use crate::state::{Ended, Phase, Run};
use crate::state::{Waiting, WaitingReason};

/// How long the start of a container may go on when its pod isn't wanted any more.
const LAUNCH_GRACE: Duration = Duration::from_secs(5);
/// How long an image may take to be there before the API is told that it is waited for.
const QUIET_PULL: Duration = Duration::from_millis(200);
/// Runtimes want a limit for what has none.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);

impl Worker {
    /// The next container to start, by the order of init containers, sidecars and the rest.
    pub(super) fn next_start(&self) -> Option<Due> {
        let spec = self.pod.spec.as_ref()?;
        let due = |container: &Container| -> Option<Due> {
            let run = self.saved.containers.get(&container.name);
            match run.and_then(|r| r.not_before) {
                Some(at) if at > Instant::now() => Some(Due::At(at)),
                _ => Some(Due::Now(container.name.clone())),
            }
        };
        let mut earliest: Option<Due> = None;
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let run = self.saved.containers.get(&container.name);
            match run.map(|r| &r.phase) {
                Some(Phase::Ended(ended)) if !sidecar && ended.code == 0 => {}
                Some(Phase::Running { .. }) if sidecar && run.is_some_and(|r| r.started) => {}
                Some(Phase::Running { .. }) => return earliest,
                _ => match due(container)? {
                    Due::Now(name) => return Some(Due::Now(name)),
                    at => {
                        // A sidecar that waits to be restarted doesn't hold up what already ran past it.
                        let passed = sidecar && run.is_some_and(|r| r.attempt > 0 || r.last.is_some());
                        if !passed {
                            return Some(at);
                        }
                        earliest = Some(at.or_earlier(earliest));
                    }
                },
            }
        }
        for container in &spec.containers {
            let run = self.saved.containers.get(&container.name);
            let wanted = match run.map(|r| &r.phase) {
                None | Some(Phase::Waiting) => true,
                Some(Phase::Running { .. }) => false,
                Some(Phase::Ended(ended)) => status::restarts(&self.pod, container, false, ended.code),
            };
            if wanted {
                match due(container)? {
                    Due::Now(name) => return Some(Due::Now(name)),
                    at => earliest = Some(at.or_earlier(earliest)),
                }
            }
        }
        // Those that somebody added to look at the pod, each once.
        for container in spec::ephemeral(&self.pod) {
            let run = self.saved.containers.get(&container.name);
            if run.is_none_or(|r| r.phase == Phase::Waiting) {
                match due(&container)? {
                    Due::Now(name) => return Some(Due::Now(name)),
                    at => earliest = Some(at.or_earlier(earliest)),
                }
            }
        }
        earliest
    }

    /// The id of the container that an ephemeral one was made to look at.
    fn target(&self, name: &str) -> Result<Option<String>, String> {
        let ephemeral = self.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        let wanted = ephemeral.into_iter().find(|c| c.name == name).and_then(|c| c.target_container_name.as_ref());
        let Some(target) = wanted else { return Ok(None) };
        let run = self.saved.containers.get(target).filter(|run| matches!(run.phase, Phase::Running { .. }));
        let run = run.ok_or_else(|| format!("container {target:?}, which it is to look at, isn't running"))?;
        Ok(Some(run.id.clone()))
    }

    /// Makes a container and starts it, up to the end of its hook for that. Breaks off when the pod isn't wanted any more.
    pub(super) async fn start(&mut self, name: &str, wanted: &watch::Receiver<Wanted>) -> ControlFlow<()> {
        let Some(container) = self.container(name) else { return Continue(()) };
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let mut run = self.saved.containers.get(name).cloned().unwrap_or_default();
        let mut found = std::pin::pin!(context.images.image(&pod, &container));
        let has_hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
        let soon = tokio::select! {
            found = &mut found => Some(found),
            // Nobody waits for an image that isn't wanted any more; a pull for others goes on by itself.
            () = self.interruption(wanted, Duration::ZERO) => return Break(()),
            () = tokio::time::sleep(QUIET_PULL) => None,
        };
        // What may take long is told before: the container is being created until its image is there and its hook has run.
        if soon.is_none() || has_hook {
            let _ = self.publish().await;
        }
        let found = match soon {
            Some(found) => found,
            None => tokio::select! {
                found = &mut found => found,
                () = self.interruption(wanted, Duration::ZERO) => return Break(()),
            },
        };
        let image = match found {
            Ok(image) => image,
            Err(missing) => {
                run.waiting = Some(Waiting { reason: missing.reason, message: missing.message });
                run.not_before = Some(missing.again);
                self.saved.containers.insert(name.into(), run);
                return Continue(());
            }
        };
        if let Phase::Ended(ended) = &run.phase {
            let old = ended.clone();
            self.discard(&old.id).await;
            run.last = Some(old);
            run.attempt += 1;
        } else if !run.id.is_empty() && self.places.container(&run.id).exists() {
            // A try that got no further than its files, as when its configuration is missing, the disk is full or this process ended.
            self.discard(&run.id).await;
        }
        run.id = new_id(&pod, name, run.attempt);
        run.image_id = image.reference(container.image.as_deref().unwrap_or(""));
        run.phase = Phase::Waiting;
        run.not_before = None;
        run.ready = false;
        run.started = false;
        // On disk before it runs, so that it is found again whatever happens to this process.
        self.saved.containers.insert(name.into(), run.clone());
        self.save();
        let target = match self.target(name) {
            Ok(target) => target,
            Err(message) => {
                self.not_started(run, name, StartError { reason: WaitingReason::CreateContainerError, message });
                return Continue(());
            }
        };
        let no_volumes = BTreeMap::new();
        let volumes = self.volumes.as_ref().unwrap_or(&no_volumes);
        let sandbox = self.saved.sandbox.clone().unwrap_or_default();
        let interrupted = self.interruption(wanted, LAUNCH_GRACE);
        let mut interrupted = std::pin::pin!(interrupted);
        let request = environment::Request {
            pod: &pod,
            container: &container,
            image: &image.defaults.env,
            ips: &sandbox.ips,
            volumes,
        };
        let variables = tokio::select! {
            variables = context.environment.variables(request) => variables,
            () = &mut interrupted => return Break(()),
        };
        let variables = match variables {
            Ok(variables) => variables,
            Err(error) => {
                self.not_started(run, name, config_error(error.to_string()));
                return Continue(());
            }
        };
        let launch = Launch {
            pod: &pod,
            container: &container,
            image: &image,
            sandbox: &sandbox,
            places: &self.places,
            volumes,
            id: &run.id,
            attempt: run.attempt,
            variables: &variables,
            target: target.as_deref(),
        };
        let Some(containers) = self.containers.clone() else { return Continue(()) };
        // What was half done is removed with the pod: its id is on disk.
        let made = tokio::select! {
            made = containers.create(&launch) => made,
            () = &mut interrupted => return Break(()),
        };
        if let Ok(id) = &made
            && let Some(present) = self.saved.containers.get_mut(name)
            && present.id != *id
        {
            present.id.clone_from(id);
            self.save();
        }
        let started = match &made {
            Ok(id) => tokio::select! {
                started = containers.start(&launch, id) => started,
                () = &mut interrupted => return Break(()),
            },
            Err(error) => Err(error.clone()),
        };
        run.id = made.unwrap_or(run.id);
        match started {
            Ok(()) => {
                run.phase = Phase::Running { started_at: Timestamp::now().to_string() };
                run.waiting = None;
                run.started = container.startup_probe.is_none();
                run.ready = run.started && container.readiness_probe.is_none();
                run.limits = Some(resources::limits(&container));
                run.resources = container.resources.clone();
                self.saved.containers.insert(name.into(), run);
                self.save();
                context.events.container(&pod, name, "Normal", "Created", "Container created");
                context.events.container(&pod, name, "Normal", "Started", "Container started");
                self.start_probes(name);
                self.post_start(&container, wanted).await
            }
            Err(error) => {
                self.not_started(run, name, error);
                Continue(())
            }
        }
    }

    /// Says why a container isn't started, and when it is tried again.
    fn not_started(&mut self, mut run: Run, name: &str, error: StartError) {
        self.context.events.container(&self.pod, name, "Warning", "Failed", format!("Error: {}", error.message));
        run.waiting = Some(Waiting { reason: error.reason, message: error.message.clone() });
        run.failures += 1;
        run.not_before = Some(Instant::now() + self.context.config.restart_backoff.after(run.failures));
        if error.reason == WaitingReason::RunContainerError {
            let at = Timestamp::now().to_string();
            run.phase = Phase::Ended(Ended {
                id: run.id.clone(),
                code: 128,
                message: error.message,
                started_at: at.clone(),
                finished_at: at,
                ..Ended::default()
            });
        }
        self.saved.containers.insert(name.into(), run);
        self.save();
    }

    /// Runs `lifecycle.postStart`, which may take as long as it wants, but not longer than the pod is wanted. A container whose hook
    /// fails is killed.
    async fn post_start(&mut self, container: &Container, wanted: &watch::Receiver<Wanted>) -> ControlFlow<()> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Continue(()) };
        let Some(run) = self.saved.containers.get(&container.name) else { return Continue(()) };
        let Some(containers) = self.containers.clone() else { return Continue(()) };
        let target = self.probe_target(container, run);
        let outcome = tokio::select! {
            outcome = probes::hook(&*containers, &target, hook, NO_LIMIT) => outcome,
            // Its process ends with the wait for it.
            () = self.interruption(wanted, Duration::ZERO) => return Break(()),
        };
        if let Err(error) = outcome {
            self.context.events.container(
                &self.pod,
                &container.name,
                "Warning",
                "FailedPostStartHook",
                format!("PostStartHook failed: {error}"),
            );
            containers.stop(&run.id, Stop::default()).await;
        }
        Continue(())
    }
}

/// What is to be done next.
pub(super) enum Due {
    /// Start this container.
    Now(String),
    At(Instant),
}

impl Due {
    fn or_earlier(self, other: Option<Due>) -> Due {
        match (self, other) {
            (Due::At(a), Some(Due::At(b))) => Due::At(a.min(b)),
            (mine, _) => mine,
        }
    }
}
