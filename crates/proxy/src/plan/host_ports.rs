//! Host ports of this node's pods (`hostPort`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use k8s_openapi::api::core::v1::ContainerPort;
use kube::ResourceExt as _;
use network::nft::{self, Protocol, Table, TableParts};

use super::endpoints::address;

/// What the part with the rules of a pod's ports of the machine is called.
pub fn pod_part(pod: &Pod) -> String {
    format!("pod {}/{}", pod.metadata.namespace.as_deref().unwrap_or(""), pod.name_any())
}

/// The host ports of a pod, with the container ports that they lead to.
pub fn host_port_mappings(pod: &Pod) -> impl Iterator<Item = (u16, &ContainerPort)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| Some((port.host_port.and_then(nft::port)?, port)))
}

/// The running pods with a network of their own, each with its address of the family.
pub(super) fn reachable(family: Family, pods: &[Arc<Pod>]) -> impl Iterator<Item = (&Pod, IpAddr)> {
    let apart = |pod: &Pod| !pod.is_over() && pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
    let pods = pods.iter().map(Arc::as_ref).filter(move |pod| apart(pod));
    pods.filter_map(move |pod| Some((pod, pod.ips().find_map(|ip| address(family, ip))?)))
}

/// The `hostIP` of a port: `Some(None)` for all addresses; `None` if it is of the other family.
pub(super) fn host_address(family: Family, port: &ContainerPort) -> Option<Option<IpAddr>> {
    match port.host_ip.as_deref().unwrap_or("") {
        // The CNI plugin portmap takes either of them for both families, too.
        "" | "0.0.0.0" | "::" => Some(None),
        host => address(family, host).map(Some),
    }
}

/// The host ports of this node's pods, as a part for each pod. The source address of clients is kept.
pub fn host_port_parts(family: Family, pods: &[Arc<Pod>]) -> TableParts {
    let mut parts = TableParts::new();
    for (pod, address) in reachable(family, pods) {
        let called = pod_part(pod);
        let mut table = Table::default();
        for (number, port) in host_port_mappings(pod) {
            let (Some(protocol), Some(to)) = (Protocol::of(port.protocol.as_deref()), nft::port(port.container_port))
            else {
                continue;
            };
            let Some(host) = host_address(family, port) else { continue };
            let chain = format!("host_{protocol}_{number}_{}", nft::digest(&format!("{called}/{host:?}")));
            match host {
                None => table.map("node_ports", format!("{protocol} . {number}"), format!("goto {chain}")),
                Some(host) => {
                    table.map("services", format!("{host} . {protocol} . {number}"), format!("goto {chain}"));
                }
            }
            let target = SocketAddr::new(address, to);
            table.chains.insert(chain, vec![format!("meta l4proto {protocol} dnat to {target}")]);
            table.add("hairpins", format!("{address} . {address}"));
        }
        if !table.chains.is_empty() {
            parts.insert(called.into(), Arc::new(table));
        }
    }
    parts
}
