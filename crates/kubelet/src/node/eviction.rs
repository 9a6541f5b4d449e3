//! Node-pressure eviction: when memory, disk space, inodes or process numbers fall below a threshold, unused images go first (image garbage
//! collection), then the pod that exceeds its requests most.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use runtime::cgroup;
use tokio::time::Instant;

use crate::Agent;
use crate::node::local_storage;
use crate::node::stats;
use crate::pod::admission::CRITICAL;
use crate::pod::manager::Manager;
use crate::pod::sandbox;

/// How often the machine is looked at; nothing tells when a disk fills up.
const CHECK_PERIOD: Duration = Duration::from_secs(10);
/// A condition stays for so long after its cause went, so that pods don't come and go.
const PRESSURE_TRANSITION_PERIOD: Duration = Duration::from_secs(300);
/// Images that weren't used for less than this stay.
const MIN_IMAGE_AGE: Duration = Duration::from_secs(120);
/// Images are removed when less than this part of their disk is left.
const IMAGES_LOW: f64 = 0.10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    Disk,
    Inodes,
    Processes,
}

/// Under upstream's names; the file system of images and logs is the node's.
const SIGNALS: [(&str, Signal); 6] = [
    ("memory.available", Signal::Memory),
    ("nodefs.available", Signal::Disk),
    ("imagefs.available", Signal::Disk),
    ("nodefs.inodesFree", Signal::Inodes),
    ("imagefs.inodesFree", Signal::Inodes),
    ("pid.available", Signal::Processes),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Number(u64),
    /// Of the whole.
    Part(f64),
}

impl Amount {
    fn of(self, whole: u64) -> u64 {
        match self {
            Amount::Number(number) => number,
            Amount::Part(part) => (whole as f64 * part) as u64,
        }
    }
}

/// What must be left: `memory.available<100Mi,nodefs.available<5%`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds(Vec<(String, Signal, Amount, String)>);

/// Thresholds that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no eviction threshold: it must be like memory.available<100Mi or nodefs.available<5%, and name one of {names}", names = SIGNALS.map(|(name, _)| name).join(", "))]
pub struct MalformedThreshold(String);

impl FromStr for Thresholds {
    type Err = MalformedThreshold;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |term: &str| {
            let fail = || MalformedThreshold(term.into());
            let (name, amount) = term.split_once('<').ok_or_else(fail)?;
            let (_, signal) = SIGNALS.iter().find(|(known, _)| *known == name.trim()).ok_or_else(fail)?;
            let amount = amount.trim();
            let value = match amount.strip_suffix('%') {
                Some(percent) => {
                    let percent: f64 = percent.parse().map_err(|_| fail())?;
                    Amount::Part(Some(percent / 100.0).filter(|p| (0.0..=1.0).contains(p)).ok_or_else(fail)?)
                }
                None => {
                    let quantity: apimachinery::Quantity = amount.parse().map_err(|_| fail())?;
                    Amount::Number(u64::try_from(quantity.value()).map_err(|_| fail())?)
                }
            };
            Ok((name.trim().to_string(), *signal, value, amount.to_string()))
        };
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
        terms.map(read).collect::<Result<_, _>>().map(Thresholds)
    }
}

/// What is left of something, and how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    available: u64,
    capacity: u64,
}

/// A threshold that is crossed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crossed {
    signal: Signal,
    threshold: String,
    available: u64,
}

impl Thresholds {
    /// How much of `whole` has to be left.
    pub fn keeps(&self, signal: Signal, whole: u64) -> u64 {
        let amounts = self.0.iter().filter(|(name, s, ..)| *s == signal && !name.starts_with("imagefs"));
        amounts.map(|(_, _, amount, _)| amount.of(whole)).max().unwrap_or(0)
    }

    fn crossed(&self, levels: &HashMap<Signal, Level>) -> Vec<Crossed> {
        let is_crossed = |(_, signal, amount, text): &(String, Signal, Amount, String)| {
            let level = levels.get(signal)?;
            let least = amount.of(level.capacity);
            let crossed = Crossed { signal: *signal, threshold: text.clone(), available: level.available };
            (level.available < least).then_some(crossed)
        };
        self.0.iter().filter_map(is_crossed).collect()
    }
}

/// The node's conditions that tell of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    pub memory: bool,
    pub disk: bool,
    pub processes: bool,
}

fn levels(folder: &std::path::Path) -> HashMap<Signal, Level> {
    let mut levels = HashMap::new();
    let memory = stats::Memory::read();
    levels.insert(Signal::Memory, Level { available: memory.available, capacity: memory.total });
    if let Ok(disk) = nix::sys::statvfs::statvfs(folder) {
        let unit = disk.fragment_size();
        let space = Level { available: disk.blocks_available() * unit, capacity: disk.blocks() * unit };
        levels.insert(Signal::Disk, space);
        if disk.files() > 0 {
            levels.insert(Signal::Inodes, Level { available: disk.files_available(), capacity: disk.files() });
        }
    }
    let number = |path: &str| bounded::text(path, bounded::KERNEL).ok()?.trim().parse::<u64>().ok();
    let running = bounded::text("/proc/loadavg", bounded::KERNEL).unwrap_or_default();
    let running = running.split_whitespace().nth(3).and_then(|f| f.split_once('/')?.1.parse::<u64>().ok());
    if let (Some(most), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        levels.insert(Signal::Processes, Level { available: most.saturating_sub(running), capacity: most });
    }
    levels
}

/// A pod that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    uid: String,
    priority: i32,
    used: u64,
    requested: u64,
}

/// Who goes first: of those that use more than they asked for the least important, and among equals the greediest.
fn first_to_go(mut candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.retain(|c| c.priority < CRITICAL);
    candidates.into_iter().max_by_key(|c| {
        let beyond = c.used as i128 - c.requested as i128;
        (beyond > 0, std::cmp::Reverse(c.priority), beyond)
    })
}

/// What the containers of a pod ask for together.
pub fn requested(pod: &Pod, resource: &str) -> u64 {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter());
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        let requests = c.resources.as_ref()?.requests.as_ref()?;
        u64::try_from(requests.get(resource)?.0.parse::<apimachinery::Quantity>().ok()?.value()).ok()
    };
    containers.filter_map(of).fold(0, u64::saturating_add)
}

/// Watches over the machine until the process ends.
pub async fn run(manager: Arc<Manager>) {
    let mut since: HashMap<Signal, Instant> = HashMap::new();
    let mut used: HashMap<String, Instant> = HashMap::new();
    loop {
        let agent = &manager.agent;
        let levels = levels(&agent.config.data_dir);
        let crossed = agent.config.eviction_hard.crossed(&levels);
        for crossed in &crossed {
            since.insert(crossed.signal, Instant::now());
        }
        since.retain(|_, at| at.elapsed() < PRESSURE_TRANSITION_PERIOD);
        let pressures = Pressures {
            memory: since.contains_key(&Signal::Memory),
            disk: since.contains_key(&Signal::Disk) || since.contains_key(&Signal::Inodes),
            processes: since.contains_key(&Signal::Processes),
        };
        agent.pressures.send_if_modified(|present| std::mem::replace(present, pressures) != pressures);
        let disk_is_low =
            levels.get(&Signal::Disk).is_some_and(|l| (l.available as f64) < l.capacity as f64 * IMAGES_LOW);
        let freed = disk_is_low && remove_images(&manager, &mut used).await;
        let of_disk = |c: &&Crossed| matches!(c.signal, Signal::Disk | Signal::Inodes);
        if let Some(crossed) = crossed.iter().find(|c| !(freed && of_disk(c))) {
            // It counts what pods have on the disk, which may take its time.
            let (manager, crossed) = (manager.clone(), crossed.clone());
            let _ = tokio::task::spawn_blocking(move || evict_one(&manager, &crossed)).await;
        }
        local_storage::check(&manager).await;
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Removes images that no container uses and that can be pulled again; whether there were any.
async fn remove_images(manager: &Arc<Manager>, last_used: &mut HashMap<String, Instant>) -> bool {
    let agent = &manager.agent;
    let in_use: Vec<String> = manager.images_in_use();
    let mut removed = false;
    for image in agent.images.list().await {
        let names = || image.names.iter().chain(&image.digests).chain([&image.id]);
        let used = names().any(|name| in_use.contains(name));
        let last = last_used.entry(image.id.clone()).or_insert_with(Instant::now);
        if used {
            *last = Instant::now();
        }
        if used || image.digests.is_empty() || last.elapsed() < MIN_IMAGE_AGE {
            continue;
        }
        match agent.images.remove(&image.id).await {
            Ok(true) => {
                tracing::info!(
                    image = image.names.first().unwrap_or(&image.id),
                    "image garbage collection removed an unused image"
                );
                removed = true;
            }
            Err(error) => {
                tracing::warn!(%error, image = image.id, "image garbage collection failed to remove an image")
            }
            Ok(false) => {}
        }
    }
    removed
}

fn evict_one(manager: &Arc<Manager>, crossed: &Crossed) {
    let agent: &Arc<Agent> = &manager.agent;
    let (resource, what) = match crossed.signal {
        Signal::Memory => ("memory", "memory"),
        Signal::Disk => ("ephemeral-storage", "ephemeral-storage"),
        Signal::Inodes => ("inodes", "inodes"),
        Signal::Processes => ("pids", "pids"),
    };
    let pods = manager.pods();
    let running = pods.iter().filter(|p| {
        let phase = p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        !matches!(phase, "Succeeded" | "Failed") && p.metadata.deletion_timestamp.is_none()
    });
    let candidate = |pod: &Arc<Pod>| {
        let group = sandbox::cgroup(&agent.config, pod);
        Some(Candidate {
            uid: pod.uid()?,
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            used: match crossed.signal {
                Signal::Memory => cgroup::memory_working_set(&group).unwrap_or(0),
                Signal::Processes => cgroup::processes(&group),
                Signal::Disk | Signal::Inodes => sandbox::Places::of(&agent.config, &pod.uid()?).disk_use(),
            },
            requested: requested(pod, resource),
        })
    };
    let Some(chosen) = first_to_go(running.filter_map(candidate).collect()) else {
        tracing::warn!(
            resource = what,
            available = crossed.available,
            "the node is under pressure, but no pod can be evicted"
        );
        return;
    };
    let Some(pod) = pods.iter().find(|p| p.uid().as_ref() == Some(&chosen.uid)) else { return };
    let message = format!(
        "The node was low on resource: {what}. Threshold quantity: {}, available: {}. The pod was using {}, request is {}.",
        crossed.threshold, crossed.available, chosen.used, chosen.requested
    );
    manager.evict(pod, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_and_crossed() {
        let thresholds: Thresholds = "memory.available<100Mi, nodefs.available<5%".parse().unwrap();
        let level = |available, capacity| Level { available, capacity };
        let crossed = |memory, disk| {
            let levels = HashMap::from([(Signal::Memory, level(memory, 1 << 30)), (Signal::Disk, level(disk, 1000))]);
            thresholds.crossed(&levels).into_iter().map(|c| c.signal).collect::<Vec<_>>()
        };
        assert_eq!(crossed(200 << 20, 50), []);
        assert_eq!(crossed(99 << 20, 49), [Signal::Memory, Signal::Disk]);
        assert_eq!("".parse::<Thresholds>().unwrap(), Thresholds::default());
        for bad in ["memory.available", "memory.available<x", "cpu<1", "nodefs.available<101%", "memory.available<-1"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_greediest_of_the_least_important_goes_first() {
        let pod = |uid: &str, priority, used, requested| Candidate { uid: uid.into(), priority, used, requested };
        let first = |pods: Vec<Candidate>| first_to_go(pods).map(|c| c.uid);
        assert_eq!(first(vec![pod("a", 0, 50, 100), pod("b", 0, 20, 10)]).as_deref(), Some("b"));
        assert_eq!(first(vec![pod("a", 10, 500, 0), pod("b", 0, 20, 10)]).as_deref(), Some("b"));
        assert_eq!(first(vec![pod("a", 0, 30, 0), pod("b", 0, 20, 0)]).as_deref(), Some("a"));
        assert_eq!(first(vec![pod("a", CRITICAL, 30, 0)]), None);
        assert_eq!(first(vec![pod("a", 5, 10, 100), pod("b", 0, 90, 100)]).as_deref(), Some("b"));
    }
}
