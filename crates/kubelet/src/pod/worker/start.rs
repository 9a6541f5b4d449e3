//! Which container is started next, and how.

use std::collections::BTreeMap;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;
use runtime::Image;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use super::end::own_grace;
use crate::container_runtime::PodContainers;
use crate::container_runtime::launch::config_error;
use crate::container_runtime::launch::{Launch, StartError, new_id};
use crate::devices::ContainerDevices;
use crate::environment::{self, ContainerVariables};
use crate::events::ContainerEvents as _;
use crate::pod::workers::Wanted;
use crate::pod::{probes, status};
use crate::spec::{self, resources};
use crate::state::{ContainerRecord, ContainerState, Terminated};
use crate::state::{Waiting, WaitingReason};

/// How long the start of a container may go on when its pod isn't wanted any more.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an image may take to be present before the status says that it is waited for.
const PULL_REPORT_DELAY: Duration = Duration::from_millis(200);
/// Runtimes want a limit for what has none.
const MAX_HOOK_DURATION: Duration = Duration::from_secs(24 * 3600);

impl Worker {
    /// The next container to start, by the order of init containers, sidecars and the rest.
    pub(super) fn next_start(&self) -> Option<NextStart> {
        let spec = self.pod.spec.as_ref()?;
        let due = |container: &Container| -> Option<NextStart> {
            let run = self.saved.containers.get(&container.name);
            match run.and_then(|r| r.not_before) {
                Some(at) if at > Instant::now() => Some(NextStart::At(at)),
                _ => Some(NextStart::Now(container.name.clone())),
            }
        };
        let mut earliest: Option<NextStart> = None;
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let run = self.saved.containers.get(&container.name);
            match run.map(|r| &r.phase) {
                Some(ContainerState::Terminated(ended)) if !sidecar && ended.code == 0 && !ended.is_restart_due => {}
                Some(ContainerState::Running { .. }) if sidecar && run.is_some_and(|r| r.started) => {}
                Some(ContainerState::Running { .. }) => return earliest,
                _ => match due(container)? {
                    NextStart::Now(name) => return Some(NextStart::Now(name)),
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
                None | Some(ContainerState::Waiting) => true,
                Some(ContainerState::Running { .. }) => false,
                Some(ContainerState::Terminated(ended)) => status::restarts(&self.pod, container, false, ended),
            };
            if wanted {
                match due(container)? {
                    NextStart::Now(name) => return Some(NextStart::Now(name)),
                    at => earliest = Some(at.or_earlier(earliest)),
                }
            }
        }
        // Ephemeral containers, each once.
        for container in spec::ephemeral(&self.pod) {
            let run = self.saved.containers.get(&container.name);
            if run.is_none_or(|r| r.phase == ContainerState::Waiting) {
                match due(&container)? {
                    NextStart::Now(name) => return Some(NextStart::Now(name)),
                    at => earliest = Some(at.or_earlier(earliest)),
                }
            }
        }
        earliest
    }

    /// The id of the container that an ephemeral one was made to look at.
    fn target(&self, name: &str) -> Result<Option<String>, StartError> {
        let ephemeral = self.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        let wanted = ephemeral.into_iter().find(|c| c.name == name).and_then(|c| c.target_container_name.as_ref());
        let Some(target) = wanted else { return Ok(None) };
        let run = self.saved.containers.get(target).filter(|run| matches!(run.phase, ContainerState::Running { .. }));
        let missing = || StartError {
            reason: WaitingReason::CreateContainerError,
            message: format!("container {target:?}, which it is to look at, isn't running"),
        };
        let run = run.ok_or_else(missing)?;
        Ok(Some(run.id.clone()))
    }

    /// Makes a container and starts it, up to the end of its `postStart` hook. Breaks off when the pod isn't wanted any more.
    pub(super) async fn start(&mut self, name: &str, wanted: &watch::Receiver<Wanted>) -> ControlFlow<()> {
        let Some(container) = self.container(name) else { return Continue(()) };
        let Some(image) = self.await_image(&container, wanted).await? else { return Continue(()) };
        let mut run = self.next_run(&container, &image).await;
        let Some(containers) = self.containers.clone() else { return Continue(()) };
        if let Err(error) = self.launch(&*containers, &container, &image, &mut run, wanted).await? {
            self.not_started(run, name, error);
            return Continue(());
        }
        run.phase = ContainerState::Running { started_at: Timestamp::now().to_string() };
        run.waiting = None;
        run.started = container.startup_probe.is_none();
        run.ready = run.started && container.readiness_probe.is_none();
        run.limits = Some(resources::limits(&container));
        run.resources = container.resources.clone();
        run.image.clone_from(&container.image);
        run.user = containers.user(&run.id).await;
        self.saved.containers.insert(name.into(), run);
        self.save();
        self.context.events.container(&self.pod, name, "Normal", "Created", "Container created");
        self.context.events.container(&self.pod, name, "Normal", "Started", "Container started");
        self.start_probes(name);
        self.post_start(&container, wanted).await
    }

    /// The image of a container. Where it can't be had, the container waits, and there is none.
    async fn await_image(
        &mut self,
        container: &Container,
        wanted: &watch::Receiver<Wanted>,
    ) -> ControlFlow<(), Option<Image>> {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let mut found = pin!(context.images.ensure_image(&pod, container));
        let has_hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
        let soon = tokio::select! {
            found = &mut found => Some(found),
            // An image that isn't wanted any more isn't waited for; a pull for others goes on by itself.
            () = self.interruption(wanted, Duration::ZERO) => return Break(()),
            () = tokio::time::sleep(PULL_REPORT_DELAY) => None,
        };
        // What may take long is reported before: the container is being created until its image is present and its hook has run.
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
        match found {
            Ok(image) => Continue(Some(image)),
            Err(missing) => {
                let run = self.saved.containers.entry(container.name.clone()).or_default();
                run.waiting = Some(Waiting { reason: missing.reason, message: missing.message });
                run.not_before = Some(missing.again);
                Continue(None)
            }
        }
    }

    /// The record of a container's next run. It is on disk before the container runs, so that it is found again whatever happens to this process.
    async fn next_run(&mut self, container: &Container, image: &Image) -> ContainerRecord {
        let name = &container.name;
        let mut run = self.saved.containers.get(name).cloned().unwrap_or_default();
        if let ContainerState::Terminated(ended) = &run.phase {
            let old = ended.clone();
            self.discard(&old.id).await;
            run.last = Some(old);
            run.attempt += 1;
        } else if !run.id.is_empty() && self.dirs.container(&run.id).exists() {
            // A try that got no further than its files, as when its configuration is missing, the disk is full or this process ended.
            self.discard(&run.id).await;
        }
        run.id = new_id(&self.pod, name, run.attempt);
        run.image_id = image.reference(container.image.as_deref().unwrap_or(""));
        run.phase = ContainerState::Waiting;
        run.not_before = None;
        run.is_restart_due = false;
        run.ready = false;
        run.started = false;
        self.saved.containers.insert(name.clone(), run.clone());
        self.save();
        run
    }

    /// Makes a container and starts it; its record gets the id by which the runtime knows it.
    async fn launch(
        &mut self,
        containers: &dyn PodContainers,
        container: &Container,
        image: &Image,
        run: &mut ContainerRecord,
        wanted: &watch::Receiver<Wanted>,
    ) -> ControlFlow<(), Result<(), StartError>> {
        let target = match self.target(&container.name) {
            Ok(target) => target,
            Err(error) => return Continue(Err(error)),
        };
        let (pod, no_volumes) = (self.pod.clone(), BTreeMap::new());
        let volumes = self.volumes.as_ref().unwrap_or(&no_volumes);
        let sandbox = self.saved.sandbox.clone().unwrap_or_default();
        let mut interrupted = pin!(self.interruption(wanted, LAUNCH_TIMEOUT));
        let given = self.devices_and_variables(container, image);
        let given = tokio::select! {
            given = given => given,
            () = &mut interrupted => return Break(()),
        };
        let (devices, variables) = match given {
            Ok(given) => given,
            Err(error) => return Continue(Err(error)),
        };
        let proposed = run.id.clone();
        let launch = Launch {
            pod: &pod,
            container,
            image,
            sandbox: &sandbox,
            dirs: &self.dirs,
            volumes,
            id: &proposed,
            attempt: run.attempt,
            variables: &variables,
            target: target.as_deref(),
            devices: &devices,
        };
        // What was half done is removed with the pod: its id is on disk.
        let created = tokio::select! {
            created = containers.create(&launch) => created,
            () = &mut interrupted => return Break(()),
        };
        match created {
            Ok(id) => run.id = id,
            Err(error) => return Continue(Err(error)),
        }
        if let Some(present) = self.saved.containers.get_mut(&container.name)
            && present.id != run.id
        {
            present.id.clone_from(&run.id);
            self.save();
        }
        tokio::select! {
            started = containers.start(&launch, &run.id) => Continue(started),
            () = &mut interrupted => Break(()),
        }
    }

    /// What the container is given for its devices, of which some may want to be prepared for each start, and its variables.
    async fn devices_and_variables(
        &self,
        container: &Container,
        image: &Image,
    ) -> Result<(ContainerDevices, ContainerVariables), StartError> {
        let devices = self.context.devices.before_start(&self.uid, container).await;
        let mut devices = devices.map_err(|error| config_error(error.to_string()))?;
        let of_claims = self.context.claims.cdi_devices(&self.pod, container).await;
        devices.add_cdi(of_claims.map_err(|error| config_error(error.to_string()))?);
        // What the spec says goes before what a device wants, and that before what the image says.
        let of_devices = devices.env.iter().map(|(name, value)| format!("{name}={value}"));
        let image_env: Vec<String> = image.defaults.env.iter().cloned().chain(of_devices).collect();
        let no_volumes = BTreeMap::new();
        let request = environment::Request {
            pod: &self.pod,
            container,
            image: &image_env,
            ips: self.saved.sandbox.as_ref().map_or(&[], |sandbox| &sandbox.ips),
            volumes: self.volumes.as_ref().unwrap_or(&no_volumes),
        };
        let variables = self.context.environment.variables(request).await;
        Ok((devices, variables.map_err(|error| config_error(error.to_string()))?))
    }

    /// Says why a container isn't started, and when it is tried again.
    fn not_started(&mut self, mut run: ContainerRecord, name: &str, error: StartError) {
        self.context.events.container(&self.pod, name, "Warning", "Failed", format!("Error: {}", error.message));
        run.waiting = Some(Waiting { reason: error.reason, message: error.message.clone() });
        run.failures += 1;
        run.not_before = Some(Instant::now() + self.context.config.restart_backoff.after(run.failures));
        if error.reason == WaitingReason::RunContainerError {
            let at = Timestamp::now().to_string();
            run.phase = ContainerState::Terminated(Terminated {
                id: run.id.clone(),
                code: 128,
                message: error.message,
                started_at: at.clone(),
                finished_at: at,
                ..Terminated::default()
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
            outcome = probes::run_hook(&*containers, &target, hook, MAX_HOOK_DURATION) => outcome,
            // Its process ends with the wait for it.
            () = self.interruption(wanted, Duration::ZERO) => return Break(()),
        };
        self.context.hook_fell_back(&self.pod, &outcome);
        if let Err(error) = outcome {
            let why = format!("PostStartHook failed: {error}");
            self.context.events.container(&self.pod, &container.name, "Warning", "FailedPostStartHook", why);
            let (name, id) = (container.name.clone(), run.id.clone());
            self.context.events.container(&self.pod, &name, "Normal", "Killing", "FailedPostStartHook");
            // Like every other end: with its preStop hook, and within the pod's grace period.
            self.kill(&name, &id, own_grace(&self.pod), Vec::new());
        }
        Continue(())
    }
}

/// What is to be done next.
pub(super) enum NextStart {
    /// Start this container.
    Now(String),
    At(Instant),
}

impl NextStart {
    fn or_earlier(self, other: Option<NextStart>) -> NextStart {
        match (self, other) {
            (NextStart::At(a), Some(NextStart::At(b))) => NextStart::At(a.min(b)),
            (mine, _) => mine,
        }
    }
}
