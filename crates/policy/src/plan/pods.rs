//! Pods as policies see them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use kube::ResourceExt as _;
use network::LocalPod;
use network::nft::{self, Protocol};

use super::Labels;
use crate::Config;

/// A pod with an address of its own, as policies see it.
pub(super) struct PolicyPod<'a> {
    pub labels: &'a Labels,
    pub address: IpAddr,
    pub is_local: bool,
    /// Named ports: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// This node's pods that the API doesn't show yet, or not with their addresses.
pub(super) struct LocalPodIndex<'a> {
    family: Family,
    by_uid: HashMap<&'a str, &'a LocalPod>,
    owners: HashMap<IpAddr, &'a str>,
}

impl<'a> LocalPodIndex<'a> {
    pub fn new(family: Family, local: &'a [Arc<LocalPod>]) -> Self {
        let pairs = local.iter().flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.uid.as_str())));
        let by_uid = local.iter().map(|pod| (pod.uid.as_str(), pod.as_ref())).collect();
        LocalPodIndex { family, by_uid, owners: pairs.collect() }
    }

    /// The address of a pod of this node. The kubelet's knowledge precedes the API's. None if another pod has the address by now.
    fn address(&mut self, pod: &Pod, api_address: Option<IpAddr>) -> Option<IpAddr> {
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        if let Some(local) = self.by_uid.remove(uid) {
            return local.addresses.iter().copied().find(|address| Family::of(*address) == self.family);
        }
        api_address.filter(|address| self.owners.get(address).is_none_or(|owner| *owner == uid))
    }

    pub fn rest(self) -> impl Iterator<Item = (&'a str, PolicyPod<'a>)> {
        self.by_uid.into_values().filter_map(move |pod| {
            let address = pod.addresses.iter().copied().find(|address| Family::of(*address) == self.family)?;
            let policy_pod = PolicyPod { labels: &pod.labels, address, is_local: true, ports: pod.ports.clone() };
            Some((pod.namespace.as_str(), policy_pod))
        })
    }
}

/// The containers that run at the same time: the pod's containers and its sidecars (KEP-753).
fn running_containers(spec: &informer::pod::PodSpec) -> impl Iterator<Item = &informer::pod::Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// A pod with its namespace, if it isn't on the host network and has an address of the family.
pub(super) fn policy_pod<'a>(
    config: &Config,
    family: Family,
    pod: &'a Pod,
    local_pods: &mut LocalPodIndex<'a>,
) -> Option<(&'a str, PolicyPod<'a>)> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network == Some(true) || pod.is_over() {
        local_pods.by_uid.remove(pod.metadata.uid.as_deref().unwrap_or(""));
        return None;
    }
    let is_local = spec.node_name.as_deref() == Some(config.node_name.as_str());
    let api_address = pod.ips().filter_map(|a| a.parse().ok()).find(|a| Family::of(*a) == family);
    let address = if is_local { local_pods.address(pod, api_address)? } else { api_address? };
    let ports = running_containers(spec).flat_map(|c| c.ports.iter().flatten());
    let named = ports
        .filter_map(|p| Some((p.name.clone()?, Protocol::of(p.protocol.as_deref())?, nft::port(p.container_port)?)));
    let policy_pod = PolicyPod { labels: pod.labels(), address, is_local, ports: named.collect() };
    Some((pod.metadata.namespace.as_deref()?, policy_pod))
}
