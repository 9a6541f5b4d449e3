//! From Services and EndpointSlices to a table of nftables: pure, no I/O.
//!
//! The table has fixed chains with hooks ([`base`]) and verdict maps from a packet's destination to a chain that picks an endpoint: one
//! that services share ([`shared`]), or, with many endpoints, session affinity or traffic from outside, a chain of the service port
//! ([`chains`]). A packet costs one map look-up, whatever the number of services.
//!
//! Text of objects is parsed before it gets into a rule: addresses, networks, ports and protocols are values here, and names of chains have
//! only the letters and digits of an object's name, with a digest. Text that can't be parsed gets no rule.

mod base;
mod chains;
mod endpoints;
mod host_ports;
mod shared;
#[cfg(test)]
mod tests;
pub mod udp_backends;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Family;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::nft::{self, FamilySyntax, Protocol, Table, TableParts};

pub use base::base_table;
use chains::{add_address, add_chain, add_source_range_chain, chain_name};
pub use endpoints::NodeTopology;
use endpoints::{ByState, Endpoint, PlanContext, address, by_service, endpoints};
pub use host_ports::{host_port_mappings, host_port_parts, pod_part};
use udp_backends::UdpBackends;

use crate::Config;

/// Default timeout of session affinity (upstream's `DefaultClientIPServiceAffinitySeconds`).
const DEFAULT_AFFINITY_SECONDS: u32 = 10800;
/// Marks a connection to be masqueraded (kube-proxy's `--iptables-masquerade-bit`).
const MASQUERADE_MARK: &str = "ct mark set ct mark or 0x4000";

fn name_of(service: &Service) -> (&str, &str) {
    (service.metadata.namespace.as_deref().unwrap_or(""), service.metadata.name.as_deref().unwrap_or(""))
}

/// Whether a service's labels take it from this proxy, as they do from kube-proxy: another proxy serves it, or it is to have no address.
fn is_of_another_proxy(service: &Service) -> bool {
    let labels = service.metadata.labels.iter().flatten();
    let mut labels = labels.map(|(key, _)| key.as_str());
    labels.any(|key| matches!(key, "service.kubernetes.io/service-proxy-name" | "service.kubernetes.io/headless"))
}

/// The addresses of a service's load balancer to which packets come as they were sent. Where it is a proxy of its own (KEP-1860, `ipMode`), everybody
/// has to go through it.
fn load_balancer_ips(service: &Service) -> impl Iterator<Item = &String> {
    let ingress =
        service.status.iter().filter_map(|s| s.load_balancer.as_ref()).flat_map(|l| l.ingress.iter().flatten());
    ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref())
}

/// The name of a service's part of the table.
pub fn service_part(service: &Service) -> String {
    let (namespace, name) = name_of(service);
    format!("{namespace}/{name}")
}

/// The rules of a service, and the objects that they were planned from.
struct PlannedService {
    /// The name of the part.
    name: Arc<str>,
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    part: Arc<Table>,
    udp_backends: UdpBackends,
}

impl PlannedService {
    fn is_current(&self, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// Plans the rules of services in one family. It caches the rules of each service, so that unchanged services cost nothing.
pub struct Planner {
    family: Family,
    topology: NodeTopology,
    planned: Vec<PlannedService>,
}

impl Planner {
    /// A planner with an empty cache.
    pub fn new(family: Family) -> Self {
        Planner { family, topology: NodeTopology::default(), planned: Vec::new() }
    }

    /// The parts of the table, by service; [`base_table`] has the rest. `services` must be sorted by namespace and name, as informers list
    /// them.
    pub fn parts(
        &mut self,
        config: &Config,
        topology: &NodeTopology,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> TableParts {
        if self.topology != *topology {
            self.topology = topology.clone();
            self.planned.clear();
        }
        let by_service = by_service(self.family, slices);
        let context = PlanContext { config, topology, family: self.family };
        // Both lists have the same order, so one pass finds the cached rules.
        let mut known = std::mem::take(&mut self.planned).into_iter().peekable();
        self.planned.reserve(services.len());
        for service in services {
            let name = name_of(service);
            let slices = by_service.get(&name).map(Vec::as_slice).unwrap_or_default();
            while known.next_if(|planned| name_of(&planned.service) < name).is_some() {}
            let planned = match known.next_if(|planned| name_of(&planned.service) == name) {
                Some(planned) if planned.is_current(service, slices) => planned,
                planned => {
                    let part_name = planned.map_or_else(|| service_part(service).into(), |planned| planned.name);
                    let mut part = Table::default();
                    add_service(context, service, name, slices, &mut part);
                    let udp_backends = udp_backends::of_service(context, service, slices);
                    let slices = slices.iter().map(|slice| Arc::clone(slice)).collect();
                    PlannedService {
                        name: part_name,
                        service: service.clone(),
                        slices,
                        part: Arc::new(part),
                        udp_backends,
                    }
                }
            };
            self.planned.push(planned);
        }
        // Collected at once, as they are almost sorted already: inserting one by one is much slower.
        self.planned.iter().map(|planned| (planned.name.clone(), planned.part.clone())).collect()
    }

    /// The UDP backends of the services of the last call of [`parts`](Self::parts).
    pub fn udp_backends(&self) -> UdpBackends {
        let mut all = UdpBackends::default();
        self.planned.iter().filter(|m| !m.udp_backends.is_empty()).for_each(|m| all.extend(m.udp_backends.clone()));
        all
    }
}

type Name = (String, String);

/// What the health-check node port of a service responds (`healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Namespace and name.
    pub service: Name,
    /// Ready endpoints on this node.
    pub local: usize,
}

/// The health checks of services with `externalTrafficPolicy: Local`, by port. One family is enough, since pods have addresses of all families.
pub fn health(
    config: &Config,
    family: Family,
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> BTreeMap<u16, HealthCheck> {
    let by_service = by_service(family, slices);
    let mut ports = BTreeMap::new();
    for service in services {
        let spec = service.spec.as_ref().filter(|_| !is_of_another_proxy(service));
        let Some(port) = spec.and_then(|s| s.health_check_node_port) else { continue };
        let Some(port) = u16::try_from(port).ok().filter(|p| *p > 0) else { continue };
        let meta = &service.metadata;
        let name = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let endpoints =
            by_service.get(&name_of(service)).into_iter().flatten().flat_map(|s| s.endpoints.iter().flatten());
        let ready = endpoints.filter(|e| {
            let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            ready && e.node_name.as_deref() == Some(config.node_name.as_str())
        });
        let local = ready.count();
        ports.insert(port, HealthCheck { service: name, local });
    }
    ports
}

/// Adds the rules of a service in one family.
fn add_service(
    context: PlanContext<'_>,
    service: &Service,
    (namespace, name): (&str, &str),
    slices: &[&Arc<EndpointSlice>],
    table: &mut Table,
) {
    let Some(spec) = service.spec.as_ref().filter(|_| !is_of_another_proxy(service)) else { return };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    // Headless services have no cluster IP, and a service of the other family alone has none here.
    let of_family = |text: &String| address(context.family, text);
    let Some(cluster_ip) = spec.cluster_ips.iter().flatten().find_map(of_family) else { return };
    if kind == "ExternalName" || context.config.cluster_dns == Some(cluster_ip) {
        return;
    }
    let external = ExternalAddresses::of(context.family, service, table);
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (Protocol::of(port.protocol.as_deref()), nft::port(port.port)) else {
            continue;
        };
        let all = endpoints(context, slices, port);
        let timeout = affinity_timeout(spec);
        let base_name = chain_name(namespace, name, port, protocol);
        let internal = usable(&all, spec.internal_traffic_policy.as_deref() == Some("Local"));
        let inside = if timeout.is_none() && (1..=shared::MAX_SHARED_ENDPOINTS).contains(&internal.len()) {
            shared::place_endpoints(table, protocol, cluster_ip, number, &internal)
        } else {
            add_chain(table, context.family, &base_name, &internal, protocol, timeout);
            base_name.clone()
        };
        add_address(table, &format!("{cluster_ip} . {protocol} . {number}"), &inside, &internal);
        let local_only = spec.external_traffic_policy.as_deref() == Some("Local");
        let external_port = ExternalPort {
            family: context.family,
            base_name,
            protocol,
            number,
            node_port: port.node_port.and_then(nft::port),
            endpoints: usable(&all, local_only),
            of_cluster: if local_only { all.of_cluster() } else { Vec::new() },
            local_only,
            timeout,
        };
        external_port.add(&external, context.config, table);
    }
}

/// The endpoints of this node alone, or those that topology prefers.
fn usable(all: &ByState, local_only: bool) -> Vec<Endpoint> {
    if local_only { all.of_node() } else { all.of_cluster() }
}

/// The timeout of session affinity in seconds, if the service has affinity.
fn affinity_timeout(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    Some(seconds.filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS))
}

/// The addresses of a service for traffic from outside the cluster.
struct ExternalAddresses {
    load_balancer_ips: BTreeSet<IpAddr>,
    external_ips: BTreeSet<IpAddr>,
    /// The chain that drops traffic from outside `loadBalancerSourceRanges`, if there are any. It is one for all ports, as a service may have
    /// thousands of ports and of ranges.
    source_range_chain: Option<String>,
}

impl ExternalAddresses {
    fn of(family: Family, service: &Service, table: &mut Table) -> Self {
        let of_family = |text: &String| address(family, text);
        let spec = service.spec.as_ref();
        let is_balanced = spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
        let load_balancer_ips: BTreeSet<IpAddr> =
            load_balancer_ips(service).filter(|_| is_balanced).filter_map(of_family).collect();
        let external_ips = spec.into_iter().flat_map(|s| s.external_ips.iter().flatten());
        let external_ips = external_ips.filter_map(of_family).collect();
        let source_range_chain = match spec.and_then(|s| s.load_balancer_source_ranges.as_deref()) {
            Some(ranges) if !ranges.is_empty() && !load_balancer_ips.is_empty() => {
                Some(add_source_range_chain(table, family, name_of(service), ranges))
            }
            _ => None,
        };
        ExternalAddresses { load_balancer_ips, external_ips, source_range_chain }
    }
}

/// A service port as it is reached from outside the cluster: by external IPs, load-balancer IPs and a node port.
struct ExternalPort {
    family: Family,
    base_name: String,
    protocol: Protocol,
    number: u16,
    node_port: Option<u16>,
    endpoints: Vec<Endpoint>,
    /// With `externalTrafficPolicy: Local`, where the cluster's own traffic goes nevertheless.
    of_cluster: Vec<Endpoint>,
    /// `externalTrafficPolicy: Local`.
    local_only: bool,
    /// Timeout of session affinity in seconds.
    timeout: Option<u32>,
}

impl ExternalPort {
    fn add(&self, addresses: &ExternalAddresses, config: &Config, table: &mut Table) {
        let ExternalPort { family, base_name, protocol, endpoints, .. } = self;
        let ExternalAddresses { load_balancer_ips, external_ips, source_range_chain } = addresses;
        if load_balancer_ips.is_empty() && external_ips.is_empty() && self.node_port.is_none() {
            return;
        }
        let chain = format!("{base_name}_ext");
        add_chain(table, *family, &chain, endpoints, *protocol, self.timeout);
        // Traffic from outside is masqueraded, so that replies come back through this node, unless all endpoints are here.
        if !endpoints.is_empty() && !self.local_only {
            table.chains.entry(chain.clone()).or_default().insert(0, MASQUERADE_MARK.into());
        }
        self.add_own_traffic(&chain, config, table);
        for address in external_ips {
            self.add_address(table, address, &chain);
        }
        let allowed_chain = match source_range_chain {
            Some(source_range_chain) if self.leads_somewhere() => {
                let allowed_chain = format!("{base_name}_fw");
                let rules = vec![format!("jump {source_range_chain}"), format!("goto {chain}")];
                table.chains.insert(allowed_chain.clone(), rules);
                allowed_chain
            }
            _ => chain.clone(),
        };
        for address in load_balancer_ips {
            self.add_address(table, address, &allowed_chain);
        }
        if let Some(number) = self.node_port {
            let key = format!("{protocol} . {number}");
            if endpoints.is_empty() {
                table.add("refused_ports", key.clone());
            }
            if self.leads_somewhere() {
                table.map("node_ports", key, format!("goto {chain}"));
            }
        }
    }

    /// Whether anybody's traffic has an endpoint.
    fn leads_somewhere(&self) -> bool {
        !(self.endpoints.is_empty() && self.of_cluster.is_empty())
    }

    /// An address from outside. Where only the cluster's own traffic has endpoints, the rest is refused.
    fn add_address(&self, table: &mut Table, address: &IpAddr, chain: &str) {
        let key = format!("{address} . {} . {}", self.protocol, self.number);
        if self.endpoints.is_empty() {
            table.add("refused", key.clone());
        }
        if self.leads_somewhere() {
            table.map("services", key, format!("goto {chain}"));
        }
    }

    /// The policy `Local` is about traffic from outside, which a load balancer takes to the right nodes. Traffic of this node and its pods came past
    /// none: it goes to all endpoints, as kube-proxy leads it.
    fn add_own_traffic(&self, chain: &str, config: &Config, table: &mut Table) {
        if self.of_cluster.is_empty() {
            return;
        }
        let all = format!("{}_all", self.base_name);
        add_chain(table, self.family, &all, &self.of_cluster, self.protocol, self.timeout);
        let ip = FamilySyntax::of(self.family).ip;
        let pods = config.cluster_cidr.of(self.family).map(|pods| format!("{ip} saddr {pods} goto {all}"));
        let node = format!("fib saddr type local {MASQUERADE_MARK} goto {all}");
        let rules = table.chains.entry(chain.into()).or_default();
        rules.splice(0..0, pods.into_iter().chain([node]));
    }
}
