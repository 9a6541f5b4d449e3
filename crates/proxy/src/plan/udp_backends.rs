//! The UDP backends of services and host ports: conntrack entries to any other backend are stale (kube-proxy's `conntrack` cleaner).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::conntrack::Entry;
use network::nft;

use super::endpoints::{Endpoint, PlanContext, address, endpoints};
use super::host_ports::{host_address, host_port_mappings, reachable};
use super::{is_of_another_proxy, load_balancer_ips};

/// Where clients send datagrams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UdpDestination {
    Address(SocketAddr),
    /// A node port or host port, at any address of the node.
    NodePort(u16),
}

/// The places of some services or pods, each with who may answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UdpBackends(BTreeMap<UdpDestination, BTreeSet<SocketAddr>>);

impl UdpBackends {
    /// Whether an entry leads to a removed backend, or bypasses the present ones.
    pub fn is_stale(&self, entry: &Entry) -> bool {
        if let Some(answering) = self.0.get(&UdpDestination::Address(entry.original_destination)) {
            return !answering.contains(&entry.reply_source);
        }
        // An entry without translation isn't for a host port.
        let answering = self
            .0
            .get(&UdpDestination::NodePort(entry.original_destination.port()))
            .filter(|_| entry.original_destination != entry.reply_source);
        answering.is_some_and(|answering| !answering.contains(&entry.reply_source))
    }

    /// Adds the backends of `more`.
    pub fn extend(&mut self, more: UdpBackends) {
        self.0.extend(more.0);
    }

    /// Whether there are no UDP destinations.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, destination: UdpDestination, answering: &BTreeSet<SocketAddr>) {
        self.0.entry(destination).or_default().extend(answering);
    }
}

/// The UDP backends of a service. Terminating endpoints still serve their existing flows.
pub(super) fn of_service(context: PlanContext<'_>, service: &Service, slices: &[&Arc<EndpointSlice>]) -> UdpBackends {
    let mut all = UdpBackends::default();
    let Some(spec) = service.spec.as_ref().filter(|_| !is_of_another_proxy(service)) else { return all };
    let addresses = spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten());
    let addresses = addresses.chain(load_balancer_ips(service));
    let addresses: Vec<_> = addresses.filter_map(|ip| address(context.family, ip)).collect();
    for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref() == Some("UDP")) {
        let all_endpoints = endpoints(context, slices, port);
        let at = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port);
        let answering = all_endpoints.ready.iter().chain(&all_endpoints.serving).map(at).collect();
        for address in addresses.iter().filter(|address| Some(**address) != context.config.cluster_dns) {
            if let Some(port) = nft::port(port.port) {
                all.add(UdpDestination::Address(SocketAddr::new(*address, port)), &answering);
            }
        }
        if let Some(port) = port.node_port.and_then(nft::port) {
            all.add(UdpDestination::NodePort(port), &answering);
        }
    }
    all
}

/// The UDP backends of host ports of this node's pods.
pub fn of_pods(family: Family, pods: &[Arc<Pod>]) -> UdpBackends {
    let mut all = UdpBackends::default();
    for (pod, address) in reachable(family, pods) {
        for (from, port) in host_port_mappings(pod).filter(|(_, port)| port.protocol.as_deref() == Some("UDP")) {
            let Some(to) = nft::port(port.container_port) else { continue };
            let destination = match host_address(family, port) {
                Some(None) => UdpDestination::NodePort(from),
                Some(Some(host)) => UdpDestination::Address(SocketAddr::new(host, from)),
                None => continue,
            };
            all.add(destination, &BTreeSet::from([SocketAddr::new(address, to)]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{NodeTopology, Planner};

    #[test]
    fn flows_to_who_is_gone_are_stale() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "dns", "namespace": "a"},
            "spec": {"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "externalIPs": ["192.0.2.5"],
                     "ports": [{"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"name": "t", "port": 80, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.6"}]}}}))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"name": "dns-x", "namespace": "a",
                "labels": {"kubernetes.io/service-name": "dns"}},
            "addressType": "IPv4", "ports": [{"name": "u", "port": 5353, "protocol": "UDP"}],
            "endpoints": [{"addresses": ["10.42.0.2"], "conditions": {"ready": true}},
                          {"addresses": ["10.42.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                          {"addresses": ["10.42.0.4"], "conditions": {"ready": false, "serving": false}}]}))
        .unwrap();
        let config = crate::Config {
            table: "t".into(),
            node_name: "n".into(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            cluster_dns: None,
            bridge: None,
        };
        let mut planner = Planner::new(Family::V4);
        planner.parts(&config, &NodeTopology::default(), &[Arc::new(service)], &[Arc::new(slice)]);
        let udp_backends = planner.udp_backends();
        let stale = |to: &str, answers: &str| {
            udp_backends
                .is_stale(&Entry { original_destination: to.parse().unwrap(), reply_source: answers.parse().unwrap() })
        };
        for to in ["10.43.0.5:53", "192.0.2.5:53", "192.0.2.6:53", "192.168.7.7:30053"] {
            assert!(!stale(to, "10.42.0.2:5353") && !stale(to, "10.42.0.3:5353"), "{to}");
            assert!(stale(to, "10.42.0.4:5353") && stale(to, "10.42.0.2:53"), "{to}");
        }
        // Sent before there was a rule: it went on as it was.
        assert!(stale("10.43.0.5:53", "10.43.0.5:53"));
        // Those of others aren't ours to end.
        assert!(!stale("192.168.7.7:30053", "192.168.7.7:30053"));
        assert!(!stale("10.43.0.5:80", "10.42.0.9:80") && !stale("10.43.0.6:53", "10.42.0.9:53"));
    }
}
