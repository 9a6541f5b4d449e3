//! Node-pressure eviction: when memory, disk space, inodes or process numbers fall below a threshold, unused images go first (image garbage
//! collection), then the pod that exceeds its requests most.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use runtime::cgroup;
use tokio::sync::watch;
use tokio::time::Instant;

use super::image_gc::{self, ImageCollector};
use super::local_storage;
use super::stats::StatsProvider;
use crate::config::{Config, EvictionSignal, MetThreshold, Observation};
use crate::container_runtime::ImageService;
use crate::machine::Memory;
use crate::pod::admission::{CRITICAL, Pressures};
use crate::pod::manager::PodManager;
use crate::spec::{is_mirror, is_static, names};
use crate::state::PodDirs;

/// How often the signals are observed (upstream's monitoring interval): nothing tells when a disk fills up.
const MONITORING_PERIOD: Duration = Duration::from_secs(10);
/// A condition stays for so long after its cause went, so that pods don't come and go (upstream's
/// `evictionPressureTransitionPeriod`).
const PRESSURE_TRANSITION_PERIOD: Duration = Duration::from_secs(300);

fn observe(folder: &std::path::Path) -> HashMap<EvictionSignal, Observation> {
    let mut observed = HashMap::new();
    let mut note = |signal, available, capacity| observed.insert(signal, Observation { available, capacity });
    let memory = Memory::read();
    note(EvictionSignal::Memory, memory.available, memory.total);
    if let Ok(disk) = nix::sys::statvfs::statvfs(folder) {
        let unit = disk.fragment_size();
        note(EvictionSignal::Disk, disk.blocks_available() * unit, disk.blocks() * unit);
        if disk.files() > 0 {
            note(EvictionSignal::Inodes, disk.files_available(), disk.files());
        }
    }
    let number = |path: &str| bounded::text(path, bounded::MAX_KERNEL_FILE_BYTES).ok()?.trim().parse::<u64>().ok();
    let running = bounded::text("/proc/loadavg", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let running = running.split_whitespace().nth(3).and_then(|f| f.split_once('/')?.1.parse::<u64>().ok());
    if let (Some(most), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        note(EvictionSignal::Pids, most.saturating_sub(running), most);
    }
    observed
}

/// A pod that could be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    uid: String,
    priority: i32,
    used: u64,
    requested: u64,
}

/// The pod that is evicted first: of those that exceed their requests the one of the lowest priority, and among equals the one that exceeds
/// them most.
fn first_to_evict(mut candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.retain(|c| c.priority < CRITICAL);
    candidates.into_iter().max_by_key(|c| {
        let beyond = c.used as i128 - c.requested as i128;
        (beyond > 0, std::cmp::Reverse(c.priority), beyond)
    })
}

/// What a pod asks for: its containers together with its sidecars, its overhead, or what it says of itself as a whole.
pub fn requested(pod: &Pod, resource: &str) -> u64 {
    let pod = serde_json::to_value(pod).unwrap_or_default();
    let amounts = api::quota::pod_amounts(&pod, "requests");
    amounts.get(resource).and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(0)
}

/// Whether pressure may end a pod: it runs, and isn't one that a node can't do without (upstream's `IsCriticalPod`; those of high priority
/// [`first_to_evict`] leaves out).
fn is_evictable(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
    !matches!(phase, "Succeeded" | "Failed")
        && pod.metadata.deletion_timestamp.is_none()
        && !is_static(pod)
        && !is_mirror(pod)
}

/// Evicts pods under pressure.
pub struct EvictionManager {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The images that are present.
    pub images: Arc<dyn ImageService>,
    /// The pods of this node.
    pub pods: Arc<PodManager>,
    /// What the pods use.
    pub stats: Arc<StatsProvider>,
    /// Under which pressure the node is, for admission and for the Node's conditions.
    pub pressures: watch::Sender<Pressures>,
}

/// Observes the node and evicts pods until the process ends.
pub async fn run(manager: Arc<EvictionManager>) {
    let mut since: HashMap<EvictionSignal, Instant> = HashMap::new();
    let mut collector = ImageCollector::new(manager.images.clone());
    loop {
        let observed = observe(&manager.config.data_dir);
        let met = manager.config.eviction_hard.met(&observed);
        for threshold in &met {
            since.insert(threshold.signal, Instant::now());
        }
        since.retain(|_, at| at.elapsed() < PRESSURE_TRANSITION_PERIOD);
        let pressures = Pressures {
            memory: since.contains_key(&EvictionSignal::Memory),
            disk: since.contains_key(&EvictionSignal::Disk) || since.contains_key(&EvictionSignal::Inodes),
            pids: since.contains_key(&EvictionSignal::Pids),
        };
        manager.pressures.send_if_modified(|present| std::mem::replace(present, pressures) != pressures);
        let is_of_disk = |t: &&MetThreshold| matches!(t.signal, EvictionSignal::Disk | EvictionSignal::Inodes);
        // Under pressure all that isn't used goes before any pod does.
        let wanted = match met.iter().any(|t| is_of_disk(&t)) {
            true => u64::MAX,
            false => image_gc::bytes_to_free(observed.get(&EvictionSignal::Disk)),
        };
        let is_freed = wanted > 0 && collector.collect(&manager.pods, wanted).await;
        if let Some(threshold) = met.iter().find(|t| !(is_freed && is_of_disk(t))) {
            // It measures what pods have on the disk, which may take its time.
            let (of, threshold) = (manager.clone(), threshold.clone());
            let _ = tokio::task::spawn_blocking(move || of.evict_one(&threshold)).await;
        }
        local_storage::enforce(&manager.config, &manager.pods, &manager.stats).await;
        tokio::time::sleep(MONITORING_PERIOD).await;
    }
}

impl EvictionManager {
    fn evict_one(&self, threshold: &MetThreshold) {
        let resource = match threshold.signal {
            EvictionSignal::Memory => "memory",
            EvictionSignal::Disk => "ephemeral-storage",
            EvictionSignal::Inodes => "inodes",
            EvictionSignal::Pids => "pids",
        };
        let pods = self.pods.pods();
        let running = pods.iter().filter(|pod| is_evictable(pod));
        let candidates = running.filter_map(|pod| self.candidate(pod, threshold.signal, resource)).collect();
        let Some(chosen) = first_to_evict(candidates) else {
            let available = threshold.available;
            tracing::warn!(resource, available, "the node is under pressure, but no pod can be evicted");
            return;
        };
        let Some(pod) = pods.iter().find(|p| p.uid().as_ref() == Some(&chosen.uid)) else { return };
        let message = format!(
            "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. The pod was using {}, request is {}.",
            threshold.threshold, threshold.available, chosen.used, chosen.requested
        );
        self.pods.evict(pod, message);
    }

    fn candidate(&self, pod: &Pod, signal: EvictionSignal, resource: &str) -> Option<Candidate> {
        let (uid, group) = (pod.uid()?, names::cgroup(&self.config, pod));
        let used = match signal {
            EvictionSignal::Memory => cgroup::memory_working_set(&group).unwrap_or(0),
            EvictionSignal::Pids => cgroup::processes(&group),
            EvictionSignal::Disk | EvictionSignal::Inodes => PodDirs::of(&self.config, &uid).disk_usage(),
        };
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        Some(Candidate { uid, priority, used, requested: requested(pod, resource) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_a_node_can_not_do_without_are_not_evicted() {
        let is_evictable = |metadata: serde_json::Value, phase: &str| {
            let pod = serde_json::json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}});
            is_evictable(&serde_json::from_value(pod).unwrap())
        };
        let of_api = serde_json::json!({"resourceVersion": "1"});
        assert!(is_evictable(of_api.clone(), "Running"));
        assert!(!is_evictable(of_api, "Failed"));
        assert!(!is_evictable(serde_json::json!({}), "Running"), "a static one");
        let mirror = serde_json::json!({"resourceVersion": "1", "annotations": {"kubernetes.io/config.mirror": "x"}});
        assert!(!is_evictable(mirror, "Running"));
    }

    #[test]
    fn sidecars_and_overhead_are_asked_for_too() {
        let asks = |memory: &str| serde_json::json!({"name": "c", "resources": {"requests": {"memory": memory}}});
        let mut sidecar = asks("2");
        sidecar["restartPolicy"] = "Always".into();
        let spec =
            serde_json::json!({"containers": [asks("1")], "initContainers": [sidecar], "overhead": {"memory": "4"}});
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec})).unwrap();
        assert_eq!((requested(&pod, "memory"), requested(&pod, "inodes")), (7, 0));
    }

    #[test]
    fn the_greediest_of_the_least_important_goes_first() {
        let pod = |uid: &str, priority, used, requested| Candidate { uid: uid.into(), priority, used, requested };
        let first = |pods: Vec<Candidate>| first_to_evict(pods).map(|c| c.uid);
        assert_eq!(first(vec![pod("a", 0, 50, 100), pod("b", 0, 20, 10)]).as_deref(), Some("b"));
        assert_eq!(first(vec![pod("a", 10, 500, 0), pod("b", 0, 20, 10)]).as_deref(), Some("b"));
        assert_eq!(first(vec![pod("a", 0, 30, 0), pod("b", 0, 20, 0)]).as_deref(), Some("a"));
        assert_eq!(first(vec![pod("a", CRITICAL, 30, 0)]), None);
        assert_eq!(first(vec![pod("a", 5, 10, 100), pod("b", 0, 90, 100)]).as_deref(), Some("b"));
    }
}
