//! One worker for every pod of this node, and the sweeping of what no pod owns any more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use informer::quarantine::version_of;
use informer::{Change, Informer};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::{Api, ResourceExt as _};
use network::LocalPod;

use super::context::Context;
use super::shutdown::Shutdown;
use super::workers::Wanted;
use crate::config::Config;
use crate::container_runtime::cri;
use crate::images;
use crate::pod::admission::{Eviction, PodResources};
use crate::pod::{static_pods, worker};
use crate::spec::is_mirror;
use crate::state::{self, PodCheckpoint, PodDirs};
use crate::volumes::projected;
use crate::volumes::{self, claim_of};

/// Between two tries to let go what a driver holds.
const UNMOUNT_RETRY_PERIOD: Duration = Duration::from_secs(5);

/// How long the API may take to say which pods there are before the node begins with those that it had.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts and feeds the pods' workers.
pub struct PodManager {
    pub(super) pods: Informer<Pod>,
    pub(super) context: Arc<Context>,
}

/// The addresses that pods had before this process started.
pub fn restored_addresses(config: &Config) -> Vec<IpAddr> {
    let saved = state::sandboxes(config).filter(|(_, s)| !s.host_network).flat_map(|(_, s)| s.ips);
    saved.chain(cri::restored_addresses(config)).collect()
}

/// The pods that had addresses of their own before this process started. Their workers add what else is to be known of them.
pub fn restored_pods(config: &Config) -> Vec<LocalPod> {
    let restored = state::pod_folders(config).filter_map(|folder| {
        let saved = state::load(&folder.path())?;
        let addresses = saved.sandbox.filter(|sandbox| !sandbox.host_network)?.ips;
        let uid = folder.file_name().to_string_lossy().into_owned();
        Some(LocalPod { uid, namespace: saved.namespace, addresses, ..LocalPod::default() })
    });
    restored.collect()
}

impl PodManager {
    /// Watches the pods of this node, and goes on with those that it had.
    pub fn start(context: Arc<Context>) -> Arc<Self> {
        let mine = format!("spec.nodeName={}", context.config.node_name);
        let pods: Informer<Pod> = Informer::start(Api::all(context.client.clone()), &mine, "");
        let manager = Arc::new(PodManager { pods: pods.clone(), context });
        manager.hold_present();
        static_pods::start(&manager);
        let to = manager.clone();
        pods.on_change(move |change| to.feed(change));
        let to = manager.clone();
        manager.context.informers.of::<PersistentVolume>().on_change(move |change| to.volume_changed(change));
        let of = manager.clone();
        tasks::until_done("pods-begin", move || begin(of.clone()));
        manager
    }

    /// Reserves what pods had before this process started, before other pods are admitted. Static pods are admitted by their manifests.
    fn hold_present(&self) {
        for folder in state::pod_folders(&self.context.config) {
            let is_there =
                |saved: &PodCheckpoint| !saved.finished && (saved.sandbox.is_some() || !saved.containers.is_empty());
            let pod = state::load(&folder.path()).filter(is_there).and_then(|_| state::load_manifest(&folder.path()));
            if let Some(pod) = pod {
                self.context
                    .admission
                    .admitted
                    .hold(&folder.file_name().to_string_lossy(), PodResources::of(&pod, false));
            }
        }
    }

    /// Goes on with the pods that this node had, as they were known last; returns their uids.
    fn revive(&self) -> BTreeSet<String> {
        let known = state::pod_folders(&self.context.config).filter_map(|folder| state::load_manifest(&folder.path()));
        let mut revived = BTreeSet::new();
        for pod in known
            .filter(|pod| pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&self.context.config.node_name))
        {
            let (Some(uid), pod) = (pod.uid(), Arc::new(pod)) else { continue };
            if self.context.workers.get(&uid).is_none() {
                self.deliver(&uid, Some(pod.clone()));
                revived.insert(uid);
            }
        }
        revived
    }

    fn feed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let Some(uid) = pod.uid() else { return };
        if is_mirror(pod) {
            self.context.statics.wake_mirrors();
            return;
        }
        let wanted = match change {
            Change::Applied { new, .. } => Some(new.clone()),
            Change::Deleted(_) => None,
        };
        // A pod of the same name but another uid is another pod: the old one is gone.
        if let Change::Applied { old: Some(old), .. } = change
            && old.uid() != pod.uid()
            && let Some(old) = old.uid()
        {
            self.deliver(&old, None);
        }
        // What containers read of their own pod in files is as it is now.
        if let Change::Applied { old: Some(old), new } = change
            && (&old.metadata.labels, &old.metadata.annotations) != (&new.metadata.labels, &new.metadata.annotations)
            && projected::shows_pod(new)
        {
            self.context.workers.mark_stale(uid.clone());
        }
        self.deliver(&uid, wanted);
    }

    /// Hands a pod to its worker; the first time, one is started.
    pub(super) fn deliver(&self, uid: &str, wanted: Wanted) {
        if wanted.is_none() {
            // The next pod may have its resources and devices, though it may still be terminating: the scheduler has given them away.
            self.context.admission.release(uid);
        }
        let Some(receiver) = self.context.workers.deliver(uid, wanted) else { return };
        let Some(pod) = receiver.borrow().clone() else { return };
        let (context, uid) = (self.context.clone(), uid.to_string());
        tasks::spawn("pod-worker", async move {
            let workers = context.workers.clone();
            worker::guard::run(context, pod, receiver).await;
            // Unless the same pod has begun anew, as a static one may.
            workers.forget(&uid);
        });
    }

    /// Returns once the API has said which pods this node has.
    pub async fn synced(&self) {
        self.pods.synced().await;
    }

    /// Whether and how far graceful node shutdown has begun.
    pub fn shutdown(&self) -> &Shutdown {
        &self.context.shutdown
    }

    /// The pod and its dirs, by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, PodDirs, PodCheckpoint)> {
        let key = informer::Key::new(namespace, name);
        let pod = self.context.statics.get(&key).or_else(|| self.pods.get(&key))?;
        let dirs = PodDirs::of(&self.context.config, &pod.uid()?);
        let saved = state::load(&dirs.data)?;
        Some((pod, dirs, saved))
    }

    /// The pods of this node, the static ones as they are and not as they are mirrored.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.list();
        pods.retain(|pod| !is_mirror(pod));
        pods.extend(self.context.statics.list());
        pods
    }

    /// The pods of this node that haven't ended.
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.pods();
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        });
        pods
    }

    /// Whether a pod is still handled here.
    pub fn has(&self, uid: &str) -> bool {
        self.context.workers.contains(uid)
    }

    /// A volume that has grown is grown for the pods that have it, too.
    fn volume_changed(&self, change: &Change<PersistentVolume>) {
        let Change::Applied { old: Some(old), new } = change else { return };
        let (Some(before), Some(now)) = (&old.spec, &new.spec) else { return };
        let Some(claim) = now.claim_ref.as_ref().filter(|_| before.capacity != now.capacity) else { return };
        let uses = |pod: &Arc<Pod>| {
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let mut claims = volumes.filter_map(|v| claim_of(pod, v));
            pod.namespace() == claim.namespace && claims.any(|c| Some(&c.name) == claim.name.as_ref())
        };
        for uid in self.pods.list().iter().filter(|pod| uses(pod)).filter_map(|pod| pod.uid()) {
            self.context.workers.refresh_volumes([uid]);
        }
    }

    /// Ends a pod that the machine has no room for, and says why.
    pub fn evict(&self, pod: &Pod, message: String) {
        tracing::warn!(pod = %pod.name_any(), message, "evicting a pod");
        self.context.events.warning(pod, "Evicted", message.clone());
        let uid = pod.uid().unwrap_or_default();
        self.context.workers.evict(&uid, Eviction::Evicted(message));
    }

    /// The images of all containers that this node has, running or not, and of all volumes: by name and by id.
    pub fn images_in_use(&self) -> Vec<String> {
        let of_pod = |pod: Arc<Pod>| {
            let dirs = PodDirs::of(&self.context.config, &pod.uid().unwrap_or_default());
            let mut used = images::image_names(&pod);
            let saved = state::load(&dirs.data).into_iter();
            used.extend(saved.flat_map(|s| s.containers.into_values().map(|run| run.image_id)));
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let shown = volumes.filter(|volume| volume.image.is_some());
            used.extend(shown.filter_map(|volume| volumes::image_of(&dirs.volume(&volume.name))));
            used
        };
        self.pods().into_iter().flat_map(of_pod).collect()
    }
}

/// Waits for the API's word about this node's pods. As long as there is none, pods go on as they were known last: their containers are
/// restarted as ever. Then what is gone goes.
async fn begin(manager: Arc<PodManager>) {
    let heard = tokio::time::timeout(API_TIMEOUT, manager.pods.synced()).await;
    let mut revived = BTreeSet::new();
    if heard.is_err() {
        revived = manager.revive();
        tracing::info!(
            pods = revived.len(),
            "the API doesn't say which pods this node has; it goes on with those that it had"
        );
        manager.pods.synced().await;
    }
    manager.context.api_synced.store(true, std::sync::atomic::Ordering::Relaxed);
    let known: BTreeSet<String> = manager.pods().iter().filter_map(|p| p.uid()).collect();
    manager.context.admission.admitted.settle(&known);
    manager.context.devices.retain(&known);
    for uid in revived.difference(&known) {
        manager.deliver(uid, None);
    }
    sweep(manager).await;
}

/// Removes the remains of pods that were deleted while the agent was away.
async fn sweep(manager: Arc<PodManager>) {
    let config = &manager.context.config;
    let known: Vec<String> = manager.pods().iter().filter_map(|p| p.uid()).collect();
    let mut uids: BTreeSet<String> =
        state::pod_folders(config).map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    uids.extend(manager.context.runtime.orphaned_pods().await);
    for uid in uids {
        if known.contains(&uid) || manager.context.workers.contains(&uid) {
            continue;
        }
        tracing::info!(%uid, "cleaning up after a pod that was deleted from the API");
        tasks::spawn("pod-remains", remove(manager.context.clone(), uid));
    }
}

async fn remove(context: Arc<Context>, uid: String) {
    let Ok(_handling) = context.quarantine.enter(&uid, || version_of(None)).await else {
        tracing::error!(%uid, "the pod is quarantined: its clean-up crashed the process twice");
        return;
    };
    let dirs = PodDirs::of(&context.config, &uid);
    let saved = state::load(&dirs.data);
    let sandbox = saved.as_ref().and_then(|s| s.sandbox.as_ref());
    let left = context.runtime.containers(&dirs, sandbox);
    if let Ok((containers, _)) = left.watch().await {
        for container in containers {
            let _ = left.delete(&container.id).await;
        }
    }
    // The driver may be a pod that isn't up again yet.
    while let Err(error) = context.volumes.unpublish(&uid, &dirs).await {
        tracing::warn!(%uid, %error, "failed to unmount a volume of a deleted pod; retrying");
        tokio::time::sleep(UNMOUNT_RETRY_PERIOD).await;
    }
    context.remove_sandbox(&uid, &dirs, sandbox, false).await;
}
