//! One worker for every pod of this node, and the sweeping of what no pod owns any more.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use informer::quarantine::version_of;
use informer::{Change, Informer};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::{Api, ResourceExt as _};
use network::LocalPod;
use parking_lot::Mutex;
use runtime::files::SharedWatch;
use tokio::sync::watch;

use crate::Agent;
use crate::Config;
use crate::container_runtime::cri;
use crate::images;
use crate::node::stats::Readings;
use crate::pod::admission::{Eviction, Share};
use crate::pod::sandbox::{Places, Sandbox};
use crate::pod::static_pods;
use crate::pod::worker::{self, Saved};
use crate::volumes::{self, claim_of};

/// Between two tries to let go what a driver holds.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long the API may take to say which pods there are before the node begins with those that it had.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// What the API wants of a pod: the object, or nothing once it is gone.
pub type Wanted = Option<Arc<Pod>>;

/// The ways to the pods' workers, by uid.
pub type Workers = Arc<Mutex<HashMap<String, watch::Sender<Wanted>>>>;

pub struct Manager {
    workers: Workers,
    pub pods: Informer<Pod>,
    pub readings: Readings,
    /// News of the logs that somebody follows.
    pub log_news: SharedWatch,
    pub agent: Arc<Agent>,
}

/// The sandboxes that pods had before this process started, by uid.
pub fn sandboxes(config: &Config) -> impl Iterator<Item = (String, Sandbox)> {
    let folders = std::fs::read_dir(config.pods_dir()).into_iter().flatten().flatten();
    folders.filter_map(|f| Some((f.file_name().to_string_lossy().into_owned(), worker::load(&f.path())?.sandbox?)))
}

/// The addresses that pods had before this process started.
pub fn restored_addresses(config: &Config) -> Vec<IpAddr> {
    let saved = sandboxes(config).filter(|(_, s)| !s.host_network).flat_map(|(_, s)| s.ips);
    saved.chain(cri::restored_addresses(config)).collect()
}

/// The pods that had addresses of their own before this process started. What else is to be known of them their workers tell.
pub fn restored_pods(config: &Config) -> Vec<LocalPod> {
    let folders = std::fs::read_dir(config.pods_dir()).into_iter().flatten().flatten();
    let restored = folders.filter_map(|folder| {
        let saved = worker::load(&folder.path())?;
        let addresses = saved.sandbox.filter(|sandbox| !sandbox.host_network)?.ips;
        let uid = folder.file_name().to_string_lossy().into_owned();
        Some(LocalPod { uid, namespace: saved.namespace, addresses, ..LocalPod::default() })
    });
    restored.collect()
}

impl Manager {
    pub fn start(agent: Arc<Agent>) -> Arc<Self> {
        let mine = format!("spec.nodeName={}", agent.config.node_name);
        let pods: Informer<Pod> = Informer::start(Api::all(agent.client.clone()), &mine, "");
        let manager = Arc::new(Manager {
            workers: agent.workers.clone(),
            pods: pods.clone(),
            readings: Readings::default(),
            log_news: SharedWatch::default(),
            agent,
        });
        manager.hold_present();
        static_pods::start(&manager);
        let to = manager.clone();
        pods.on_change(move |change| to.feed(change));
        let to = manager.clone();
        manager.agent.informers.of::<PersistentVolume>().on_change(move |change| to.volume_changed(change));
        let of = manager.clone();
        tasks::until_done("pods-begin", move || begin(of.clone()));
        manager
    }

    /// What pods had before this process started they have before anybody else is taken in. Static pods say it themselves.
    fn hold_present(&self) {
        let folders = std::fs::read_dir(self.agent.config.pods_dir()).into_iter().flatten().flatten();
        for folder in folders {
            let is_there = |saved: &Saved| !saved.finished && (saved.sandbox.is_some() || !saved.containers.is_empty());
            let pod = worker::load(&folder.path()).filter(is_there).and_then(|_| worker::known(&folder.path()));
            if let Some(pod) = pod {
                self.agent.admitted.hold(&folder.file_name().to_string_lossy(), Share::of(&pod, false));
            }
        }
    }

    /// Goes on with the pods that this node had, as they were known last; returns their uids.
    fn revive(&self) -> BTreeSet<String> {
        let folders = std::fs::read_dir(self.agent.config.pods_dir()).into_iter().flatten().flatten();
        let known = folders.filter_map(|folder| worker::known(&folder.path()));
        let mut revived = BTreeSet::new();
        for pod in known
            .filter(|pod| pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&self.agent.config.node_name))
        {
            let (Some(uid), pod) = (pod.uid(), Arc::new(pod)) else { continue };
            if self.worker(&uid).is_none() {
                self.tell(&uid, Some(pod.clone()), Some(&pod));
                revived.insert(uid);
            }
        }
        revived
    }

    fn feed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let Some(uid) = pod.uid() else { return };
        if static_pods::is_mirror(pod) {
            self.agent.statics.look();
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
            self.tell(&old, None, None);
        }
        // What containers read of their own pod in files is as it is now.
        if let Change::Applied { old: Some(old), new } = change
            && (&old.metadata.labels, &old.metadata.annotations) != (&new.metadata.labels, &new.metadata.annotations)
            && volumes::tell_of_pod(new)
        {
            self.agent.stale.lock().insert(uid.clone());
        }
        self.tell(&uid, wanted, Some(pod));
    }

    /// Hands a pod to its worker; the first time, one is started.
    pub fn tell(&self, uid: &str, wanted: Wanted, pod: Option<&Arc<Pod>>) {
        if wanted.is_none() {
            // Whoever comes next may have what it had, though it may still be on its way out.
            self.agent.admitted.release(uid);
        }
        let mut workers = self.workers.lock();
        if let Some(sender) = workers.get(uid).filter(|s| !s.is_closed()) {
            sender.send_replace(wanted);
            return;
        }
        let (Some(_), Some(pod)) = (&wanted, pod) else { return };
        let (sender, receiver) = watch::channel(wanted);
        workers.insert(uid.into(), sender);
        let (agent, pod, all, uid) = (self.agent.clone(), pod.clone(), self.workers.clone(), uid.to_string());
        tasks::spawn("pod-worker", async move {
            worker::guard::run(agent, pod, receiver).await;
            // Unless the same pod has begun anew, as a static one may.
            let mut all = all.lock();
            if all.get(&uid).is_some_and(watch::Sender::is_closed) {
                all.remove(&uid);
            }
        });
    }

    /// The way to a pod's worker, as long as it is at work.
    pub fn worker(&self, uid: &str) -> Option<watch::Sender<Wanted>> {
        self.workers.lock().get(uid).filter(|s| !s.is_closed()).cloned()
    }

    /// The pod and its places, by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, Places, Saved)> {
        let key = informer::Key::new(namespace, name);
        let pod = self.agent.statics.get(&key).or_else(|| self.pods.get(&key))?;
        let places = Places::of(&self.agent.config, &pod.uid()?);
        let saved = worker::load(&places.data)?;
        Some((pod, places, saved))
    }

    /// The pods of this node, the static ones as they are and not as they are mirrored.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.list();
        pods.retain(|pod| !static_pods::is_mirror(pod));
        pods.extend(self.agent.statics.list());
        pods
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
            self.agent.stale.lock().insert(uid.clone());
            if let Some(worker) = self.workers.lock().get(&uid) {
                worker.send_modify(|_| ());
            }
        }
    }

    /// Ends a pod that the machine has no room for, and says why.
    pub fn evict(&self, pod: &Pod, message: String) {
        tracing::warn!(pod = %pod.name_any(), message, "evicting a pod");
        self.agent.events.warning(pod, "Evicted", message.clone());
        let uid = pod.uid().unwrap_or_default();
        self.agent.evictions.lock().insert(uid.clone(), Eviction::Evicted(message));
        if let Some(worker) = self.workers.lock().get(&uid) {
            worker.send_modify(|_| ());
        }
    }

    /// The images of all containers that this node has, running or not, and of all volumes: by name and by id.
    pub fn images_in_use(&self) -> Vec<String> {
        let of_pod = |pod: Arc<Pod>| {
            let places = Places::of(&self.agent.config, &pod.uid().unwrap_or_default());
            let mut used = images::wanted(&pod);
            let saved = worker::load(&places.data).into_iter();
            used.extend(saved.flat_map(|s| s.containers.into_values().map(|run| run.image_id)));
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let shown = volumes.filter(|volume| volume.image.is_some());
            used.extend(shown.filter_map(|volume| volumes::image_of(&places.volume(&volume.name))));
            used
        };
        self.pods().into_iter().flat_map(of_pod).collect()
    }
}

/// Waits for the API's word about this node's pods. As long as there is none, pods go on as they were known last: their containers are
/// restarted as ever. Then what is gone goes.
async fn begin(manager: Arc<Manager>) {
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
    manager.agent.heard.store(true, std::sync::atomic::Ordering::Relaxed);
    let known: BTreeSet<String> = manager.pods().iter().filter_map(|p| p.uid()).collect();
    manager.agent.admitted.settle(&known);
    for uid in revived.difference(&known) {
        manager.tell(uid, None, None);
    }
    sweep(manager).await;
}

/// Removes the remains of pods that were deleted while the agent was away.
async fn sweep(manager: Arc<Manager>) {
    let config = &manager.agent.config;
    let known: Vec<String> = manager.pods().iter().filter_map(|p| p.uid()).collect();
    let folders = std::fs::read_dir(config.pods_dir()).into_iter().flatten().flatten();
    let mut uids: BTreeSet<String> = folders.map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    uids.extend(manager.agent.engine.strays().await);
    for uid in uids {
        if known.contains(&uid) || manager.workers.lock().contains_key(&uid) {
            continue;
        }
        tracing::info!(%uid, "cleaning up after a pod that was deleted from the API");
        tasks::spawn("pod-remains", remove(manager.agent.clone(), uid));
    }
}

async fn remove(agent: Arc<Agent>, uid: String) {
    let Ok(_handling) = agent.quarantine.enter(&uid, || version_of(None)).await else {
        tracing::error!(%uid, "the pod is quarantined: its clean-up crashed the process twice");
        return;
    };
    let places = Places::of(&agent.config, &uid);
    let saved = worker::load(&places.data);
    let sandbox = saved.as_ref().and_then(|s| s.sandbox.as_ref());
    let left = agent.engine.containers(&places, sandbox);
    if let Ok((containers, _)) = left.watch().await {
        for container in containers {
            let _ = left.delete(&container.id).await;
        }
    }
    // The driver may be a pod that isn't up again yet.
    while let Err(error) = agent.unpublish(&uid, &places).await {
        tracing::warn!(%uid, error, "failed to unmount a volume of a deleted pod; retrying");
        tokio::time::sleep(RETRY_AFTER).await;
    }
    agent.remove_sandbox(&uid, &places, sandbox, false).await;
}
