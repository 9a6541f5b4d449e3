//! Keeps the Node's status and lease up to date, and registers the node again when its object is deleted.

use std::sync::Arc;
use std::time::Duration;

use informer::{Informers, Key, Recorder};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{lease, registration, status};
use crate::config::Config;
use crate::container_runtime::network::PodNetwork;
use crate::container_runtime::{ContainerRuntime, ImageService};
use crate::devices::DeviceManager;
use crate::machine::MachineInfo;
use crate::pod::admission::Pressures;
use crate::pod::manager::PodManager;
use crate::state::{self, PodDirs};

/// How long the control plane may take to give a node its ranges of pod addresses.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the status is written when nothing changed (upstream's `nodeStatusReportFrequency`).
const STATUS_REPORT_PERIOD: Duration = Duration::from_secs(300);
/// The wait between the node's registration and its first status.
const STATUS_AFTER_REGISTRATION: Duration = Duration::from_secs(1);

/// Why the Node's status isn't written.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no ranges were given to it")]
    NoRanges,
}

/// What came of writing the Node's status.
enum Report {
    Written,
    /// There was no Node; it is there again, without a status.
    Registered,
}

/// Logs when something begins to fail and when it works again, and not in between.
#[derive(Default)]
struct FailureLog(Option<String>);

impl FailureLog {
    fn note(&mut self, what: &'static str, result: Result<(), impl std::fmt::Display>) {
        match result {
            Ok(()) if self.0.take().is_some() => tracing::info!("{what} succeeded again"),
            Ok(()) => {}
            Err(error) => {
                let why = error.to_string();
                if self.0.as_ref() != Some(&why) {
                    tracing::warn!(why, "{what} failed; retrying");
                }
                self.0 = Some(why);
            }
        }
    }
}

/// What the API says of the own Node: the node controller marks it Unknown when its lease isn't renewed, and a user may delete it, or advertise
/// resources.
#[derive(Default)]
struct NodeObservations {
    unknown: Notify,
    /// It was deleted, or other resources are advertised than are allocatable.
    outdated: Notify,
}

/// What was reported last.
struct Reported {
    conditions: Vec<NodeCondition>,
    images: usize,
    not_ready: Option<String>,
    /// When the status is due again.
    due: Instant,
}

/// Reports the node's status.
pub struct NodeReporter {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// A client of the API.
    pub client: Client,
    /// Caches of the API's objects.
    pub informers: Informers,
    /// Records events.
    pub events: Recorder,
    /// Whether it is ready, and what it can do.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The images that are present.
    pub images: Arc<dyn ImageService>,
    /// Whether it is ready, and which ranges it has.
    pub network: Arc<PodNetwork>,
    /// The pods of this node.
    pub pods: Arc<PodManager>,
    /// Under which pressure the node is.
    pub pressures: watch::Receiver<Pressures>,
    /// The devices of the node's plugins.
    pub devices: Arc<DeviceManager>,
}

/// Writes the status at the start, when it changed, and on a slow timer, and renews the lease, until the process ends. A Node that somebody
/// deletes is registered again at once: without its object the node gets no pods, and its ranges may go to another.
pub async fn run(reporter: Arc<NodeReporter>) {
    let mut pressures = reporter.pressures.clone();
    let mut shutdown = reporter.pods.shutdown().phases();
    let news = reporter.listen();
    // The ranges may have changed while no kubelet was here.
    let of = reporter.clone();
    tasks::spawn("lost-addresses", async move {
        of.pods.synced().await;
        of.evict_lost();
    });
    let mut network_changes = reporter.network.changes();
    let mut device_changes = reporter.devices.changes();
    let (mut status_log, mut lease_log) = (FailureLog::default(), FailureLog::default());
    let mut reported = reporter.begin().await;
    loop {
        let not_ready = reporter.not_ready_reason().await;
        let images = reporter.images.list().await;
        let is_changed = pressures.has_changed().unwrap_or(false)
            || shutdown.has_changed().unwrap_or(false)
            || device_changes.has_changed().unwrap_or(false)
            || not_ready != reported.not_ready
            || images.len() != reported.images;
        if is_changed || Instant::now() >= reported.due {
            reported.not_ready.clone_from(&not_ready);
            let is_shutting_down = shutdown.borrow_and_update().is_some();
            let reason = if is_shutting_down { Some("node is shutting down".into()) } else { not_ready };
            let pressures = *pressures.borrow_and_update();
            device_changes.mark_unchanged();
            match reporter.report(&mut reported, pressures, reason.as_deref(), &images).await {
                Ok(Report::Registered) => {
                    tokio::time::sleep(STATUS_AFTER_REGISTRATION).await;
                    continue;
                }
                Ok(Report::Written) => status_log.note("writing the node's status", Ok::<_, ReportError>(())),
                Err(error) => {
                    // What changed is still to be written, with the next lease.
                    reported.due = Instant::now();
                    status_log.note("writing the node's status", Err(error));
                }
            }
        }
        let renewed = lease::renew(&reporter.config, &reporter.client).await;
        lease_log.note("renewing the node's lease", renewed);
        tokio::select! {
            () = tokio::time::sleep(lease::RENEW_PERIOD) => {}
            () = news.unknown.notified() => {
                if let Ok(node) = reporter.nodes().get(&reporter.config.node_name).await {
                    reported.conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
                }
                reported.due = Instant::now();
            }
            // Writing the status finds out whether it still is so.
            () = news.outdated.notified() => reported.due = Instant::now(),
            Ok(()) = pressures.changed() => pressures.mark_changed(),
            Ok(()) = shutdown.changed() => shutdown.mark_changed(),
            Ok(()) = device_changes.changed() => device_changes.mark_changed(),
            Some(()) = async { network_changes.as_mut()?.recv().await } => {}
        }
    }
}

impl NodeReporter {
    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn listen(&self) -> Arc<NodeObservations> {
        let news = Arc::new(NodeObservations::default());
        let (to, name, devices) = (news.clone(), self.config.node_name.clone(), self.devices.clone());
        self.informers.of::<Node>().on_change(move |change| {
            if change.object().metadata.name.as_deref() != Some(&name) {
                return;
            }
            match change {
                informer::Change::Applied { new, .. } => {
                    let conditions = new.status.as_ref().and_then(|s| s.conditions.as_ref());
                    if conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "Unknown") {
                        to.unknown.notify_one();
                    }
                    if !status::advertised(new, &devices.capacity(Instant::now())).is_empty() {
                        to.outdated.notify_one();
                    }
                }
                informer::Change::Deleted(_) => to.outdated.notify_one(),
            }
        });
        news
    }

    /// Records that the kubelet starts, perhaps after a reboot.
    async fn begin(&self) -> Reported {
        let mut conditions = Vec::new();
        if let Ok(node) = self.nodes().get(&self.config.node_name).await {
            self.events.normal(&node, "Starting", "Starting kubelet.");
            let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
            let boot = MachineInfo::gather(&self.config.data_dir).boot_id;
            if info.is_some_and(|i| !i.boot_id.is_empty() && i.boot_id != boot) {
                let text = format!("Node {} has been rebooted, boot id: {boot}", self.config.node_name);
                self.events.warning(&node, "Rebooted", text);
            }
            conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        }
        Reported { conditions, images: 0, not_ready: None, due: Instant::now() }
    }

    /// Why no pod can run here, if none can.
    async fn not_ready_reason(&self) -> Option<String> {
        if let Some(reason) = self.runtime.not_ready_reason().await {
            return Some(reason);
        }
        // Upstream's words, which people search for.
        let why = self.network.problem()?;
        Some(format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}"
        ))
    }

    async fn report(
        &self,
        reported: &mut Reported,
        pressures: Pressures,
        not_ready: Option<&str>,
        images: &[runtime::Image],
    ) -> Result<Report, ReportError> {
        let conditions = status::conditions(&reported.conditions, pressures, not_ready);
        let asked = Instant::now();
        let devices = self.devices.capacity(asked);
        let mut status = status::status(&self.config, &*self.runtime, images, conditions, &devices);
        let name = &self.config.node_name;
        if let Some(node) = self.informers.of::<Node>().get(&Key::new("", name)) {
            status::advertised(&node, &devices).into_iter().for_each(|(of, amount)| status["allocatable"][of] = amount);
        }
        let patch = json!({"status": status});
        match self.nodes().patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(node) => {
                let reference = node.object_ref(&());
                let now = node.status.and_then(|s| s.conditions).unwrap_or_default();
                for reason in status::transitions(&reported.conditions, &now) {
                    let text = format!("Node {name} status is now: {reason}");
                    self.events.record(reference.clone(), "Normal", reason, text);
                }
                reported.conditions = now;
                reported.images = images.len();
                self.devices.told(asked);
                let usual = Instant::now() + STATUS_REPORT_PERIOD;
                reported.due = self.devices.next_removal().map_or(usual, |removal| removal.min(usual));
                Ok(Report::Written)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let registered = self.register_again().await;
                reported.conditions.clear();
                reported.due = Instant::now();
                registered.map(|()| Report::Registered)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn register_again(&self) -> Result<(), ReportError> {
        tracing::warn!("the Node object was deleted; registering again");
        let registering = registration::register(&self.config, &self.client);
        let ranges = tokio::time::timeout(REGISTRATION_TIMEOUT, registering).await;
        self.take_ranges(&ranges.map_err(|_| ReportError::NoRanges)??).await;
        Ok(())
    }

    /// Gives pods addresses of the ranges that the node has now. Those with other addresses have to go: another node may give them out.
    async fn take_ranges(&self, ranges: &[IpNet]) {
        match self.network.change_ranges(ranges).await {
            Ok(false) => {}
            Ok(true) => self.evict_lost(),
            Err(error) => tracing::error!(%error, "failed to apply the new podCIDRs of this node"),
        }
    }

    /// Evicts pods whose addresses aren't of this node's ranges.
    fn evict_lost(&self) {
        for pod in self.pods.pods() {
            let saved = pod.uid().and_then(|uid| state::load(&PodDirs::of(&self.config, &uid).data));
            if saved.and_then(|saved| saved.sandbox).is_some_and(|sandbox| self.network.has_lost(&sandbox)) {
                let message = "The node was registered anew and has another range of pod addresses";
                self.pods.evict(&pod, message.into());
            }
        }
    }
}
