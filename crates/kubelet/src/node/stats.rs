//! What the node, its pods and their containers use: processor, memory, disk. Read on request only.
//!
//! A rate needs two readings. The one before is kept; where there is none that is fresh enough, two are taken a second
//! apart, so that the first request waits that long and an idle node does nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use nix::sys::statvfs::Statvfs;
use parking_lot::Mutex;
use runtime::{cgroup, inside};
use serde_json::{Value, json};

use crate::config::Config;
use crate::container_runtime::ContainerRuntime;
use crate::machine::{Memory, disk_usage};
use crate::pod::manager::PodManager;
use crate::spec::{self, names};
use crate::state::ContainerState;
use crate::volumes::claim_of;

/// A reading that is older is of no use for a rate of now.
const MAX_SAMPLE_AGE: Duration = Duration::from_secs(60);
/// A reading stays the base of rates for so long, so that askers don't shorten one another's windows.
const CPU_WINDOW: Duration = Duration::from_secs(10);
const FIRST_CPU_WINDOW: Duration = Duration::from_secs(1);
/// The node's own key among the readings.
const NODE: &str = "";

/// Earlier readings of processor time, by cgroup.
#[derive(Default)]
pub struct Readings {
    bases: Mutex<HashMap<String, (Instant, u64)>>,
}

/// Processor time so far, in nanoseconds, and of late, in billionths of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cpu {
    total: u64,
    rate: u64,
    window: Duration,
}

impl Readings {
    /// Whether all have a base that is neither too fresh nor too old.
    fn covers(&self, keys: &[String], now: Instant) -> bool {
        let bases = self.bases.lock();
        keys.iter().all(|key| {
            bases.get(key).is_some_and(|(at, _)| (FIRST_CPU_WINDOW..MAX_SAMPLE_AGE).contains(&now.duration_since(*at)))
        })
    }

    /// Notes readings as bases where there is none of use, and forgets those of cgroups that are gone.
    fn note(&self, readings: &[(String, u64)], now: Instant) {
        let mut bases = self.bases.lock();
        bases.retain(|key, (at, _)| now.duration_since(*at) < MAX_SAMPLE_AGE && readings.iter().any(|(k, _)| k == key));
        for (key, total) in readings {
            bases.entry(key.clone()).or_insert((now, *total));
        }
    }

    fn rates(&self, readings: &[(String, u64)], now: Instant) -> HashMap<String, Cpu> {
        let mut bases = self.bases.lock();
        let rate = |(key, total): &(String, u64)| {
            let (at, before) = bases.get(key).copied().unwrap_or((now, *total));
            let window = now.duration_since(at);
            let rate = (total.saturating_sub(before) as f64 / window.as_secs_f64().max(0.001)) as u64;
            if window >= CPU_WINDOW {
                bases.insert(key.clone(), (now, *total));
            }
            (key.clone(), Cpu { total: *total, rate, window })
        };
        readings.iter().map(rate).collect()
    }
}

/// A container that runs, and where its use is counted.
struct Counted {
    name: String,
    cgroup: String,
    started_at: String,
    log: std::path::PathBuf,
    id: String,
    writable: std::path::PathBuf,
}

impl Counted {
    fn written(&self, by_id: Option<&HashMap<String, u64>>) -> u64 {
        match by_id {
            Some(written) => written.get(&self.id).copied().unwrap_or(0),
            None => disk_usage(&self.writable),
        }
    }
}

/// A pod with its running containers.
pub struct PodCounted {
    /// The pod.
    pub pod: Arc<Pod>,
    cgroup: String,
    containers: Vec<Counted>,
}

impl PodCounted {
    /// How many containers run.
    pub fn running(&self) -> usize {
        self.containers.len()
    }

    /// Bytes on disk of each container: its logs, and what it wrote beside volumes. `written` are the latter by the container's id,
    /// where the runtime keeps them.
    pub fn on_disk(&self, written: Option<&HashMap<String, u64>>) -> BTreeMap<String, u64> {
        let of = |c: &Counted| (c.name.clone(), disk_usage(&c.log) + c.written(written));
        self.containers.iter().map(of).collect()
    }

    /// The pod's claims, each with the file system behind it as a container sees it.
    pub fn volumes(&self) -> Vec<Value> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let of = |volume: &Volume| {
            let claim = claim_of(&self.pod, volume)?;
            let mounted = spec::started(spec).find_map(|container| {
                let mount = container.volume_mounts.iter().flatten().find(|m| m.name == volume.name)?;
                let counted = self.containers.iter().find(|c| c.name == container.name)?;
                let process = cgroup::members(&counted.cgroup).into_iter().next()?;
                // By the container's own names, which it may turn into links to anywhere.
                inside::file_system(Path::new(&format!("/proc/{process}/root")), Path::new(&mount.mount_path)).ok()
            });
            let mut stats = space(&mounted?);
            stats["name"] = volume.name.clone().into();
            stats["pvcRef"] = json!({"name": claim.name, "namespace": self.pod.namespace()});
            Some(stats)
        };
        spec.volumes.iter().flatten().filter_map(of).collect()
    }

    fn describe(&self, rates: &HashMap<String, Cpu>, written: Option<&HashMap<String, u64>>) -> Value {
        let cpu = |key: &str| cpu_value(rates.get(key).copied().unwrap_or_default());
        let mut used = 0;
        let containers: Vec<Value> = self
            .containers
            .iter()
            .map(|c| {
                let (logs, rootfs) = (disk_usage(&c.log), c.written(written));
                used += logs + rootfs;
                json!({"name": c.name, "startTime": time(&c.started_at), "cpu": cpu(&c.cgroup),
                    "memory": memory_value(&c.cgroup), "rootfs": {"time": now(), "usedBytes": rootfs},
                    "logs": {"time": now(), "usedBytes": logs}})
            })
            .collect();
        json!({"podRef": {"name": self.pod.name_any(), "namespace": self.pod.namespace(), "uid": self.pod.uid()},
            "startTime": self.pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": containers, "cpu": cpu(&self.cgroup), "memory": memory_value(&self.cgroup),
            "ephemeral-storage": {"time": now(), "usedBytes": used},
            "volume": self.volumes(),
            "process_stats": {"process_count": cgroup::processes(&self.cgroup)}})
    }
}

/// Measures what the node and its pods use, upstream's stats provider.
pub struct StatsProvider {
    config: Arc<Config>,
    runtime: Arc<dyn ContainerRuntime>,
    /// The folder of images, whose disk is measured.
    images: PathBuf,
    pods: Arc<PodManager>,
    readings: Readings,
}

impl StatsProvider {
    /// Without readings at first. `images` is the folder of images.
    pub fn new(
        config: Arc<Config>,
        runtime: Arc<dyn ContainerRuntime>,
        images: PathBuf,
        pods: Arc<PodManager>,
    ) -> Arc<Self> {
        Arc::new(StatsProvider { config, runtime, images, pods, readings: Readings::default() })
    }

    /// The pods of this node with their running containers.
    pub fn pods(&self) -> Vec<PodCounted> {
        let of = |pod: Arc<Pod>| {
            let (_, dirs, saved) = self.pods.find(&pod.namespace().unwrap_or_default(), &pod.name_any())?;
            let cgroup = names::cgroup(&self.config, &pod);
            let containers = saved.containers.iter().filter_map(|(name, run)| match &run.phase {
                ContainerState::Running { started_at } => Some(Counted {
                    name: name.clone(),
                    cgroup: self.runtime.container_cgroup(&cgroup, &run.id),
                    started_at: started_at.clone(),
                    log: dirs.data.join("logs").join(name),
                    id: run.id.clone(),
                    writable: dirs.writable(&run.id),
                }),
                _ => None,
            });
            Some(PodCounted { containers: containers.collect(), cgroup: cgroup.clone(), pod })
        };
        self.pods.pods().into_iter().filter_map(of).collect()
    }

    /// Bytes that containers wrote to their roots, by id, where the runtime alone knows.
    pub async fn writable_layer_usage(&self) -> Option<HashMap<String, u64>> {
        self.runtime.writable_layer_usage().await
    }

    /// `/stats/summary`, in upstream's form (`stats.v1alpha1`).
    pub async fn summary(self: &Arc<Self>) -> Value {
        let pods = self.pods();
        let keys: Vec<String> = std::iter::once(NODE.to_string())
            .chain(pods.iter().map(|p| p.cgroup.clone()))
            .chain(pods.iter().flat_map(|p| p.containers.iter().map(|c| c.cgroup.clone())))
            .collect();
        let read = || -> Vec<(String, u64)> {
            let total = |key: &String| if key == NODE { Some(node_cpu()) } else { cgroup::cpu_nanoseconds(key) };
            keys.iter().filter_map(|key| Some((key.clone(), total(key)?))).collect()
        };
        if !self.readings.covers(&keys, Instant::now()) {
            self.readings.note(&read(), Instant::now());
            tokio::time::sleep(FIRST_CPU_WINDOW).await;
        }
        let rates = self.readings.rates(&read(), Instant::now());
        let (of, written) = (self.clone(), self.writable_layer_usage().await);
        let describe = move || of.describe(&pods, &rates, written.as_ref());
        tokio::task::spawn_blocking(describe).await.unwrap_or(Value::Null)
    }

    fn describe(
        &self,
        pods: &[PodCounted],
        rates: &HashMap<String, Cpu>,
        written: Option<&HashMap<String, u64>>,
    ) -> Value {
        let cpu = cpu_value(rates.get(NODE).copied().unwrap_or_default());
        let pods: Vec<Value> = pods.iter().map(|pod| pod.describe(rates, written)).collect();
        let memory = Memory::read();
        let (fs, images) = (disk(&self.config.data_dir), disk(&self.images));
        json!({
            "node": {"nodeName": self.config.node_name, "cpu": cpu,
                "memory": {"time": now(), "availableBytes": memory.available, "usageBytes": memory.used,
                    "workingSetBytes": memory.working_set},
                "fs": fs, "runtime": {"imageFs": images}},
            "pods": pods,
        })
    }
}

/// Nanoseconds of processor time that the machine worked.
fn node_cpu() -> u64 {
    let stat = bounded::text("/proc/stat", bounded::MAX_KERNEL_FILE_BYTES).unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal: all but idle and iowait.
    let ticks: u64 = fields.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, n)| n).sum();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    ticks * (1_000_000_000 / hertz.max(1) as u64)
}

/// A file system's space and inodes.
pub fn disk(path: &Path) -> Value {
    nix::sys::statvfs::statvfs(path).map_or(Value::Null, |stat| space(&stat))
}

/// The same as a file system tells it, which may be anybody's.
fn space(stat: &Statvfs) -> Value {
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    json!({"time": now(), "capacityBytes": bytes(stat.blocks()), "availableBytes": bytes(stat.blocks_available()),
        "usedBytes": bytes(stat.blocks().saturating_sub(stat.blocks_free())), "inodes": stat.files(),
        "inodesFree": stat.files_free(), "inodesUsed": stat.files().saturating_sub(stat.files_free())})
}

fn now() -> String {
    apimachinery::clock::now_rfc3339()
}

fn time(text: &str) -> Value {
    text.parse::<Timestamp>().map_or(Value::Null, |t| apimachinery::clock::format_rfc3339(t).into())
}

fn cpu_value(cpu: Cpu) -> Value {
    json!({"time": now(), "usageCoreNanoSeconds": cpu.total, "usageNanoCores": cpu.rate,
        "windowSeconds": cpu.window.as_secs_f64()})
}

fn memory_value(cgroup: &str) -> Value {
    let usage = cgroup::memory_usage(cgroup).unwrap_or(0);
    let working_set = cgroup::memory_working_set(cgroup).unwrap_or(0);
    json!({"time": now(), "usageBytes": usage, "workingSetBytes": working_set,
        "rssBytes": cgroup::memory_rss(cgroup).unwrap_or(0)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_of_two_readings() {
        let readings = Readings::default();
        let begin = Instant::now();
        let keys = ["a".to_string()];
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let read = |total: u64| vec![("a".to_string(), total)];
        assert!(!readings.covers(&keys, at(0)));
        readings.note(&read(1000), at(0));
        assert!(!readings.covers(&keys, at(0)), "a second must pass");
        assert!(readings.covers(&keys, at(2)));
        assert_eq!(readings.rates(&read(3000), at(2))["a"].rate, 1000);
        // The base stays for those who ask soon, and moves on after its time.
        assert_eq!(readings.rates(&read(11_000), at(10))["a"].rate, 1000);
        assert_eq!(readings.rates(&read(16_000), at(11))["a"].rate, 5000);
        assert!(!readings.covers(&keys, at(100)), "too old");
        readings.note(&read(20_000), at(100));
        assert_eq!(readings.rates(&read(21_000), at(101))["a"].rate, 1000);
    }
}
