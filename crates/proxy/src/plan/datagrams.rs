//! Who may answer datagrams (UDP) to services and ports of the machine: flows that somebody else answers lead nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::flows::Flow;
use network::nft;

use super::{Endpoint, Here, address, all_endpoints, host_address, on_the_machine, reachable};

/// Where datagrams are sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    At(SocketAddr),
    /// A port of the machine, at whatever address.
    Port(u16),
}

/// The places of some services or pods, each with who may answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Datagrams(BTreeMap<Place, BTreeSet<SocketAddr>>);

impl Datagrams {
    /// Whether a flow leads to who isn't there any more, or past those who are there now.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if let Some(answering) = self.0.get(&Place::At(flow.to)) {
            return !answering.contains(&flow.answers);
        }
        // What isn't translated isn't for a port of this machine that leads to others.
        let answering = self.0.get(&Place::Port(flow.to.port())).filter(|_| flow.to != flow.answers);
        answering.is_some_and(|answering| !answering.contains(&flow.answers))
    }

    pub fn extend(&mut self, more: Datagrams) {
        self.0.extend(more.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, place: Place, answering: &BTreeSet<SocketAddr>) {
        self.0.entry(place).or_default().extend(answering);
    }
}

/// Those of a service. Endpoints that end still answer those who have come to them.
pub(super) fn of_service(here: Here<'_>, service: &Service, slices: &[&Arc<EndpointSlice>]) -> Datagrams {
    let mut all = Datagrams::default();
    let Some(spec) = &service.spec else { return all };
    let balancer = service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|l| l.ingress.iter().flatten());
    let addresses = spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten());
    let addresses = addresses.cloned().chain(balancer.filter_map(|ingress| ingress.ip.clone()));
    let addresses: Vec<_> = addresses.filter_map(|ip| address(here.family, &ip)).collect();
    for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref() == Some("UDP")) {
        let (ready, serving) = all_endpoints(here, slices, port);
        let at = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port);
        let answering = ready.iter().chain(&serving).map(at).collect();
        for address in addresses.iter().filter(|address| Some(**address) != here.config.cluster_dns) {
            if let Some(port) = nft::port(port.port) {
                all.add(Place::At(SocketAddr::new(*address, port)), &answering);
            }
        }
        if let Some(port) = port.node_port.and_then(nft::port) {
            all.add(Place::Port(port), &answering);
        }
    }
    all
}

/// Those of this node's own pods.
pub fn of_pods(family: Family, pods: &[Arc<Pod>]) -> Datagrams {
    let mut all = Datagrams::default();
    for (pod, address) in reachable(family, pods) {
        for (from, port) in on_the_machine(pod).filter(|(_, port)| port.protocol.as_deref() == Some("UDP")) {
            let Some(to) = nft::port(port.container_port) else { continue };
            let place = match host_address(family, port) {
                Some(None) => Place::Port(from),
                Some(Some(host)) => Place::At(SocketAddr::new(host, from)),
                None => continue,
            };
            all.add(place, &BTreeSet::from([SocketAddr::new(address, to)]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{Place as Here, Planner};

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
        planner.parts(&config, &Here::default(), &[Arc::new(service)], &[Arc::new(slice)]);
        let datagrams = planner.datagrams();
        let stale = |to: &str, answers: &str| {
            datagrams.is_stale(&Flow { to: to.parse().unwrap(), answers: answers.parse().unwrap() })
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
