//! The endpoints of a service port that a node uses: readiness, termination (KEP-1669) and topology (`trafficDistribution`, KEP-4444).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apimachinery::Family;
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::nft;

use crate::Config;

/// The node that rules are planned for.
#[derive(Clone, Copy)]
pub(super) struct PlanContext<'a> {
    pub(super) config: &'a Config,
    pub(super) topology: &'a NodeTopology,
    pub(super) family: Family,
}

/// An endpoint that can get traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) local: bool,
    /// Its hints name this node, or this zone.
    pub(super) for_node: bool,
    pub(super) for_zone: bool,
    /// It has node hints, zone hints.
    pub(super) has_node_hints: bool,
    pub(super) has_zone_hints: bool,
}

impl Endpoint {
    /// The target of `dnat`.
    pub(super) fn target(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

/// The topology of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTopology {
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// The endpoints of a service port by what they can do.
#[derive(Debug, Default)]
pub(super) struct ByState {
    /// They are ready.
    pub(super) ready: BTreeSet<Endpoint>,
    /// They terminate, and still serve.
    pub(super) serving: BTreeSet<Endpoint>,
}

impl ByState {
    /// Where traffic goes that may go to any node: to the ready endpoints that the hints prefer, and without any ready one to those that still
    /// serve while they terminate (KEP-1669).
    pub(super) fn of_cluster(&self) -> Vec<Endpoint> {
        if self.ready.is_empty() { self.serving.iter().cloned().collect() } else { prefer_topology(&self.ready) }
    }

    /// Where traffic goes that must stay on this node. What still serves here is used although other nodes have ready endpoints (KEP-1669).
    pub(super) fn of_node(&self) -> Vec<Endpoint> {
        let here = |all: &BTreeSet<Endpoint>| all.iter().filter(|e| e.local).cloned().collect::<Vec<_>>();
        let ready = here(&self.ready);
        if ready.is_empty() { here(&self.serving) } else { ready }
    }
}

/// The endpoints whose hints name this node, else those whose hints name this zone; all of them where one has no such hint, or where no hint names
/// the node or zone (upstream's `CategorizeEndpoints`).
fn prefer_topology(all: &BTreeSet<Endpoint>) -> Vec<Endpoint> {
    let those = |of: fn(&Endpoint) -> bool| all.iter().filter(|e| of(e)).cloned().collect::<Vec<_>>();
    let (here, near) = (those(|e| e.for_node), those(|e| e.for_zone));
    if !here.is_empty() && all.iter().all(|e| e.has_node_hints) {
        return here;
    }
    if !near.is_empty() && all.iter().all(|e| e.has_zone_hints) { near } else { all.iter().cloned().collect() }
}

/// The EndpointSlices of one family, by namespace and name of the service.
pub(super) fn by_service(
    family: Family,
    slices: &[Arc<EndpointSlice>],
) -> HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> {
    let mut by_service: HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> = HashMap::with_capacity(slices.len());
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(name) = labels.and_then(|l| l.get("kubernetes.io/service-name"))
            && slice.address_type == family.name()
        {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or("");
            by_service.entry((namespace, name.as_str())).or_default().push(slice);
        }
    }
    by_service
}

/// The endpoints of a service port.
pub(super) fn endpoints(context: PlanContext<'_>, slices: &[&Arc<EndpointSlice>], port: &ServicePort) -> ByState {
    let PlanContext { config, topology, .. } = context;
    let mut all = ByState::default();
    for slice in slices {
        let wanted = port.name.as_deref().unwrap_or("");
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = slice.ports.iter().flatten().find_map(|p| {
            let fits = p.name.as_deref().unwrap_or("") == wanted && p.protocol.as_deref().unwrap_or("TCP") == protocol;
            p.port.and_then(nft::port).filter(|_| fits)
        });
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let local = endpoint.node_name.as_deref() == Some(config.node_name.as_str());
            let hints = endpoint.hints.clone().unwrap_or_default();
            let for_node = hints.for_nodes.iter().flatten().any(|n| n.name == config.node_name);
            let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
            let for_zone = topology.zone.as_deref().is_some_and(|zone| zones.contains(&zone));
            for address in endpoint.addresses.iter().filter_map(|text| address(context.family, text)) {
                let (has_node_hints, has_zone_hints) =
                    (hints.for_nodes.as_ref().is_some_and(|nodes| !nodes.is_empty()), !zones.is_empty());
                let target =
                    Endpoint { address, port: number, local, for_node, for_zone, has_node_hints, has_zone_hints };
                if conditions.ready.unwrap_or(true) {
                    all.ready.insert(target);
                } else if conditions.serving.unwrap_or(false) {
                    all.serving.insert(target);
                }
            }
        }
    }
    all
}

/// Parses an address of the family.
pub(super) fn address(family: Family, text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address| Family::of(*address) == family)
}
