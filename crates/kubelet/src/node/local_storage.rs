//! Pods that write more to this node's disk than they may (local ephemeral storage): they are evicted, as upstream does it.
//!
//! The size of a folder can only be found by looking at all of it, so only those of pods that have a limit are looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;

use super::stats::{PodCounted, StatsProvider};
use crate::config::Config;
use crate::machine::disk_usage;
use crate::pod::manager::PodManager;
use crate::state::PodDirs;

const RESOURCE: &str = "ephemeral-storage";

/// What the parts of a pod take on disk, in bytes.
#[derive(Debug, Default)]
pub struct Use {
    /// Logs, and what was written beside volumes.
    pub containers: BTreeMap<String, u64>,
    /// Those that end with the pod.
    pub volumes: BTreeMap<String, u64>,
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(quantity.0.parse::<apimachinery::Quantity>().ok()?.value()).ok().filter(|bytes| *bytes > 0)
}

/// The volumes of a pod that are folders on the node's disk.
fn folders(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter(|v| v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or("").is_empty()))
}

/// The size that a volume may have.
fn bound(volume: &Volume) -> Option<&Quantity> {
    volume.empty_dir.as_ref()?.size_limit.as_ref()
}

/// The limits of a pod's containers.
fn limits(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    containers.filter_map(|c| Some((c.name.as_str(), c.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?)))
}

/// What all containers may have together, if any has a limit.
fn limit_of_all(pod: &Pod) -> Option<u64> {
    limits(pod).next()?;
    let amounts = api::quota::pod_amounts(&serde_json::to_value(pod).ok()?, "limits");
    u64::try_from(amounts.get(RESOURCE)?.value()).ok()
}

fn is_bounded(pod: &Pod) -> bool {
    folders(pod).any(|volume| bound(volume).is_some()) || limits(pod).next().is_some()
}

/// Why a pod has to go, in upstream's words.
pub fn excess(pod: &Pod, used: &Use) -> Option<String> {
    for volume in folders(pod) {
        let Some(limit) = bound(volume) else { continue };
        if bytes(limit).is_some_and(|most| used.volumes.get(&volume.name).is_some_and(|used| *used > most)) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    if let Some(all) = limit_of_all(pod)
        && used.containers.values().chain(used.volumes.values()).fold(0, |all, used| used.saturating_add(all)) > all
    {
        let limit = apimachinery::Quantity::from_int(all as i64).canonical(true);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    let greedy = limits(pod).find(|(name, limit)| {
        bytes(limit).is_some_and(|most| used.containers.get(*name).is_some_and(|used| *used > most))
    });
    greedy.map(|(name, limit)| format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0))
}

/// Evicts the pods that have more than they may.
pub async fn enforce(config: &Arc<Config>, pods: &PodManager, stats: &StatsProvider) {
    let bounded: Vec<_> = stats.pods().into_iter().filter(|p| p.running() > 0 && is_bounded(&p.pod)).collect();
    if bounded.is_empty() {
        return;
    }
    let (written, config) = (stats.writable_layer_usage().await, config.clone());
    let look = move || -> Vec<(Arc<Pod>, String)> {
        let why = |counted: PodCounted| {
            let dirs = PodDirs::of(&config, &counted.pod.uid()?);
            let volumes = folders(&counted.pod).map(|v| (v.name.clone(), disk_usage(&dirs.volume(&v.name))));
            let used = Use { volumes: volumes.collect(), containers: counted.on_disk(written.as_ref()) };
            Some((counted.pod.clone(), excess(&counted.pod, &used)?))
        };
        bounded.into_iter().filter_map(why).collect()
    };
    for (pod, message) in tokio::task::spawn_blocking(look).await.unwrap_or_default() {
        pods.evict(&pod, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_than_he_may_is_told_why() {
        let pod = |spec: &str| -> Pod {
            let text = format!(
                "{{metadata: {{name: p}}, spec: {{volumes: [{{name: v, emptyDir: {{sizeLimit: 1Mi}}}}, {{name: w, emptyDir: {{}}}}, {{name: m, emptyDir: {{medium: Memory, sizeLimit: 1}}}}], containers: {spec}}}}}"
            );
            apimachinery::yaml::from_str(&text).unwrap()
        };
        let limited = pod(
            "[{name: a, resources: {limits: {ephemeral-storage: 2Mi}}}, {name: b, resources: {limits: {ephemeral-storage: 1Mi}}}]",
        );
        let said = |pod: &Pod, volumes: [u64; 2], containers: [u64; 2]| {
            let used = Use {
                volumes: ["v", "w"].map(String::from).into_iter().zip(volumes).chain([("m".into(), 99)]).collect(),
                containers: ["a", "b"].map(String::from).into_iter().zip(containers).collect(),
            };
            excess(pod, &used)
        };
        const MI: u64 = 1 << 20;
        assert_eq!(said(&limited, [MI, 0], [MI, MI - 99]), None);
        let want = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        assert_eq!(said(&limited, [MI + 1, 0], [0, 0]).as_deref(), Some(want));
        let want = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        assert_eq!(said(&limited, [0, MI], [2 * MI, 1]).as_deref(), Some(want));
        let want = "Container b exceeded its local ephemeral storage limit \"1Mi\". ";
        assert_eq!(said(&limited, [0, 0], [0, MI + 1]).as_deref(), Some(want));
        let plain = pod("[{name: a}, {name: b}]");
        assert_eq!(said(&plain, [0, 99 * MI], [99 * MI, 0]), None);
        assert!(is_bounded(&plain) && is_bounded(&limited));
    }
}
