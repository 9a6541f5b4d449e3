//! From services and endpoints to rules: pure, no I/O.
//!
//! The table has fixed chains (hooks) and maps from what a packet is for to a chain that picks an endpoint: one that services share
//! ([`shared`]), or where that doesn't do (many endpoints, affinity, traffic from outside) the service port's own. A packet meets
//! one map look-up whatever the number of services.
//!
//! Whatever text of an object goes into a rule is parsed first: addresses, networks, ports and protocols are values here, and names
//! stand in the names of chains with their harmless letters alone, beside a digest. What can't be parsed has no rule.

pub mod datagrams;
mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apimachinery::Family;
use informer::Pod;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ContainerPort, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use network::nft::{self, Parts, Protocol, Set, Table, Words, label};

use crate::Config;
use datagrams::Datagrams;

/// For whom rules are made.
#[derive(Clone, Copy)]
struct Here<'a> {
    config: &'a Config,
    place: &'a Place,
    family: Family,
}

/// An endpoint that may get traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: IpAddr,
    port: u16,
    local: bool,
    /// It is meant for this node, or for this zone.
    for_node: bool,
    for_zone: bool,
    /// It says for which zones it is meant.
    zoned: bool,
}

impl Endpoint {
    /// As `dnat` wants it.
    fn target(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

/// Where a node is, as far as the choice of endpoints goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub zone: Option<String>,
}

/// The endpoints that are near by their hints, or all if none is: on this node, else in this zone if all say theirs.
fn near(all: &[Endpoint]) -> Vec<Endpoint> {
    let those = |of: fn(&Endpoint) -> bool| all.iter().filter(|e| of(e)).cloned().collect::<Vec<_>>();
    let here = those(|e| e.for_node);
    if !here.is_empty() {
        return here;
    }
    let zone = those(|e| e.for_zone);
    if !zone.is_empty() && all.iter().all(|e| e.zoned) { zone } else { all.to_vec() }
}

fn name_of(service: &Service) -> (&str, &str) {
    (service.metadata.namespace.as_deref().unwrap_or(""), service.metadata.name.as_deref().unwrap_or(""))
}

/// What the part with a service's rules is called.
pub fn part_of_service(service: &Service) -> String {
    let (namespace, name) = name_of(service);
    format!("{namespace}/{name}")
}

/// What the part with the rules of a pod's ports of the machine is called.
pub fn part_of_pod(pod: &Pod) -> String {
    format!("pod {}/{}", pod.metadata.namespace.as_deref().unwrap_or(""), pod.name_any())
}

/// What the rules of a service were made of.
struct Made {
    /// Namespace and name, as the part is called.
    called: Arc<str>,
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    part: Arc<Table>,
    datagrams: Datagrams,
}

impl Made {
    fn is_of(&self, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// Remembers the rules of each service in one family, so that those that didn't change cost nothing.
pub struct Planner {
    family: Family,
    place: Place,
    made: Vec<Made>,
}

impl Planner {
    pub fn new(family: Family) -> Self {
        Planner { family, place: Place::default(), made: Vec::new() }
    }

    /// The rules of a node, by service; with [`frame`] they are all. `services` are in the order of their names, as caches have them.
    pub fn parts(
        &mut self,
        config: &Config,
        place: &Place,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> Parts {
        if self.place != *place {
            self.place = place.clone();
            self.made.clear();
        }
        let by_service = by_service(self.family, slices);
        let here = Here { config, place, family: self.family };
        // Both lists are in the same order, so one walk finds what was made of a service before.
        let mut known = std::mem::take(&mut self.made).into_iter().peekable();
        self.made.reserve(services.len());
        for service in services {
            let name = name_of(service);
            let slices = by_service.get(&name).map(Vec::as_slice).unwrap_or_default();
            while known.next_if(|made| name_of(&made.service) < name).is_some() {}
            let made = match known.next_if(|made| name_of(&made.service) == name) {
                Some(made) if made.is_of(service, slices) => made,
                made => {
                    let called = made.map_or_else(|| part_of_service(service).into(), |made| made.called);
                    let mut part = Table::default();
                    add_service(here, service, name, slices, &mut part);
                    let datagrams = datagrams::of_service(here, service, slices);
                    let slices = slices.iter().map(|slice| Arc::clone(slice)).collect();
                    Made { called, service: service.clone(), slices, part: Arc::new(part), datagrams }
                }
            };
            self.made.push(made);
        }
        // At once, as they are nearly in order already: that is much faster than one by one.
        self.made.iter().map(|made| (made.called.clone(), made.part.clone())).collect()
    }

    /// Who may answer datagrams to the services that the last rules are of.
    pub fn datagrams(&self) -> Datagrams {
        let mut all = Datagrams::default();
        self.made.iter().filter(|m| !m.datagrams.is_empty()).for_each(|m| all.extend(m.datagrams.clone()));
        all
    }
}

/// The table without any service.
pub fn frame(config: &Config, family: Family) -> Table {
    let words = Words::of(family);
    let address = words.address;
    let table = Table::new(base(config, family))
        // What a packet is for → what happens to it.
        .with_set("services", &format!("type {address} . inet_proto . inet_service : verdict;"))
        .with_set("node_ports", "type inet_proto . inet_service : verdict;")
        // What has no endpoints.
        .with_set("refused", &format!("type {address} . inet_proto . inet_service;"))
        .with_set("refused_ports", "type inet_proto . inet_service;")
        // Endpoints that may reach themselves through a service.
        .with_set("hairpins", &format!("type {address} . {address};"));
    shared::declare(table, &words)
}

type Name = (String, String);

/// The slices of each service that are of a family, by namespace and name.
fn by_service(family: Family, slices: &[Arc<EndpointSlice>]) -> HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> {
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

/// What a balancer outside is told of a service at its health port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub service: Name,
    /// Endpoints on this node that are ready.
    pub local: usize,
}

/// The health ports of services whose outside traffic stays on the node that it came to. A pod has all of the cluster's
/// families, so that one tells of both.
pub fn health(
    config: &Config,
    family: Family,
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> BTreeMap<u16, Health> {
    let by_service = by_service(family, slices);
    let mut ports = BTreeMap::new();
    for service in services {
        let Some(port) = service.spec.as_ref().and_then(|s| s.health_check_node_port) else { continue };
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
        ports.insert(port, Health { service: name, local });
    }
    ports
}

fn add_service(
    here: Here<'_>,
    service: &Service,
    (namespace, name): (&str, &str),
    slices: &[&Arc<EndpointSlice>],
    table: &mut Table,
) {
    let Some(spec) = &service.spec else { return };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let of_family = |text: &String| address(here.family, text);
    // A headless service has none, and neither has one of the other family.
    let Some(cluster_ip) = spec.cluster_ips.iter().flatten().find_map(of_family) else { return };
    if kind == "ExternalName" || here.config.cluster_dns == Some(cluster_ip) {
        return;
    }
    let balancer =
        service.status.iter().filter_map(|s| s.load_balancer.as_ref()).flat_map(|l| l.ingress.iter().flatten());
    let balancer = balancer.filter_map(|i| i.ip.as_ref()).filter(|_| kind == "LoadBalancer");
    let balanced: BTreeSet<IpAddr> = balancer.filter_map(of_family).collect();
    let outside: BTreeSet<IpAddr> = spec.external_ips.iter().flatten().filter_map(of_family).collect();
    // Once for all ports: a service may have thousands of both.
    let guard = match spec.load_balancer_source_ranges.as_deref() {
        Some(ranges) if !ranges.is_empty() && !balanced.is_empty() => {
            Some(add_guard(table, here.family, (namespace, name), ranges))
        }
        _ => None,
    };
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(number)) = (Protocol::of(port.protocol.as_deref()), nft::port(port.port)) else {
            continue;
        };
        let all = endpoints(here, slices, port);
        let chosen = |local_only: bool| -> Vec<Endpoint> {
            if local_only { all.iter().filter(|e| e.local).cloned().collect() } else { near(&all) }
        };
        let base_name = chain_name(namespace, name, port, protocol);
        let timeout = match spec.session_affinity.as_deref() {
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
                let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
                Some(seconds.filter(|s| *s > 0).unwrap_or(10800))
            }
            _ => None,
        };
        let internal = chosen(spec.internal_traffic_policy.as_deref() == Some("Local"));
        let inside = if timeout.is_none() && (1..=shared::MOST).contains(&internal.len()) {
            shared::place(table, protocol, cluster_ip, number, &internal)
        } else {
            add_chain(table, here.family, &base_name, &internal, protocol, timeout);
            base_name.clone()
        };
        add_address(table, &format!("{cluster_ip} . {protocol} . {number}"), &inside, &internal);
        let local_only = spec.external_traffic_policy.as_deref() == Some("Local");
        let node_port = port.node_port.and_then(nft::port);
        if balanced.is_empty() && outside.is_empty() && node_port.is_none() {
            continue;
        }
        // What comes from outside is masqueraded, so that answers come back through this node, unless its endpoints
        // are all here.
        let external_name = format!("{base_name}_ext");
        let external = chosen(local_only);
        add_chain(table, here.family, &external_name, &external, protocol, timeout);
        if !external.is_empty() && !local_only {
            let rules = table.chains.entry(external_name.clone()).or_default();
            rules.insert(0, "ct mark set ct mark or 0x4000".into());
        }
        for address in &outside {
            add_address(table, &format!("{address} . {protocol} . {number}"), &external_name, &external);
        }
        let guarded = match &guard {
            Some(guard) if !external.is_empty() => {
                let guarded = format!("{base_name}_fw");
                let rules = vec![format!("jump {guard}"), format!("goto {external_name}")];
                table.chains.insert(guarded.clone(), rules);
                guarded
            }
            _ => external_name.clone(),
        };
        for address in &balanced {
            add_address(table, &format!("{address} . {protocol} . {number}"), &guarded, &external);
        }
        if let Some(number) = node_port {
            let key = format!("{protocol} . {number}");
            if external.is_empty() {
                table.add("refused_ports", key);
            } else {
                table.map("node_ports", key, format!("goto {external_name}"));
            }
        }
    }
}

/// The ports of its node that lead to a pod, each with what it leads to.
pub fn on_the_machine(pod: &Pod) -> impl Iterator<Item = (u16, &ContainerPort)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| Some((port.host_port.and_then(nft::port)?, port)))
}

/// The pods that ports of their machine may lead to, each with its address of the family.
fn reachable(family: Family, pods: &[Arc<Pod>]) -> impl Iterator<Item = (&Pod, IpAddr)> {
    let apart = |pod: &Pod| !pod.is_over() && pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
    let pods = pods.iter().map(Arc::as_ref).filter(move |pod| apart(pod));
    pods.filter_map(move |pod| Some((pod, pod.ips().find_map(|ip| address(family, ip))?)))
}

/// An address, if it is one, and of the family.
fn address(family: Family, text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address| Family::of(*address) == family)
}

/// The address of the machine that a port of it is at, `Some(None)` for all; none if it is at no address of this family.
fn host_address(family: Family, port: &ContainerPort) -> Option<Option<IpAddr>> {
    match port.host_ip.as_deref().unwrap_or("") {
        // Upstream's port mapping takes either for both families' (CNI's plugin of that name).
        "" | "0.0.0.0" | "::" => Some(None),
        host => address(family, host).map(Some),
    }
}

/// The ports of this machine that lead to its own pods (`hostPort`), as parts named by the pod. Who comes from elsewhere
/// keeps his address.
pub fn host_ports(family: Family, pods: &[Arc<Pod>]) -> Parts {
    let mut parts = Parts::new();
    for (pod, address) in reachable(family, pods) {
        let called = part_of_pod(pod);
        let mut table = Table::default();
        for (number, port) in on_the_machine(pod) {
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

/// A chain's name: readable, unique, and within the limits of nftables.
fn chain_name(namespace: &str, name: &str, port: &ServicePort, protocol: Protocol) -> String {
    let label = port.name.as_deref().unwrap_or_default();
    // Names that differ in letters that chains can't have, or in what was cut off, are kept apart.
    let hash = nft::digest(&format!("{namespace}/{name}/{label}/{protocol}/{}", port.port));
    let (namespace, name) = (nft::readable(namespace, 32), nft::readable(name, 40));
    format!("svc_{namespace}_{name}_{}_{hash}", port.port)
}

/// The endpoints of a service port: those that are ready, or else those that still serve while they end.
fn endpoints(here: Here<'_>, slices: &[&Arc<EndpointSlice>], port: &ServicePort) -> Vec<Endpoint> {
    let (ready, serving) = all_endpoints(here, slices, port);
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().collect()
}

/// The endpoints that are ready, and those that still serve.
fn all_endpoints(
    here: Here<'_>,
    slices: &[&Arc<EndpointSlice>],
    port: &ServicePort,
) -> (BTreeSet<Endpoint>, BTreeSet<Endpoint>) {
    let Here { config, place, .. } = here;
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
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
            let for_zone = place.zone.as_deref().is_some_and(|zone| zones.contains(&zone));
            for address in endpoint.addresses.iter().filter_map(|text| address(here.family, text)) {
                let zoned = !zones.is_empty();
                let target = Endpoint { address, port: number, local, for_node, for_zone, zoned };
                if conditions.ready.unwrap_or(true) {
                    ready.insert(target);
                } else if conditions.serving.unwrap_or(false) {
                    serving.insert(target);
                }
            }
        }
    }
    (ready, serving)
}

/// The chains that don't depend on services.
fn base(config: &Config, family: Family) -> String {
    let Config { cluster_dns, bridge, .. } = config;
    let words = Words::of(family);
    let shared = shared::chains(&words);
    let Words { ip, loopback, multicast, unreachable, .. } = words;
    // What pods send to the world leaves with the node's address.
    let masquerade = bridge.as_ref().zip(config.cluster_cidr.of(family)).map_or(String::new(), |(bridge, pods)| {
        format!("{ip} saddr {pods} {ip} daddr != {pods} {ip} daddr != {multicast} oifname != \"{bridge}\" masquerade")
    });
    // The machine's own programs reach its ports by 127.0.0.1, too (lib.rs says what that takes); nobody else may reach any there.
    let (mut own, mut hidden, mut guard) = (String::new(), String::new(), String::new());
    if family == Family::V4 {
        own = format!("{ip} daddr {loopback} meta l4proto . th dport vmap @node_ports");
        hidden = format!("ct status dnat {ip} saddr {loopback} masquerade");
        guard = format!("iif != \"lo\" {ip} daddr {loopback} drop\n    iif != \"lo\" {ip} saddr {loopback} drop");
    }
    // A pod speaks by its own addresses: the way back to whom it says it is must be the way that the packet came.
    let pinned = match bridge {
        Some(_) => format!("iifname \"{}*\" fib saddr . iif oif missing drop", network::PORTS),
        None => String::new(),
    };
    // Questions to the cluster's DNS, which is on this node, needn't be remembered.
    let (mut asked, mut answered) = (String::new(), String::new());
    if let Some(cluster_dns) = cluster_dns.filter(|dns| Family::of(*dns) == family) {
        asked = format!("{ip} daddr {cluster_dns} udp dport 53 notrack");
        answered = format!("{ip} saddr {cluster_dns} udp sport 53 notrack");
    }
    format!(
        "{shared}chain services {{
    {ip} daddr . meta l4proto . th dport vmap @services
    fib daddr type local {ip} daddr != {loopback} meta l4proto . th dport vmap @node_ports
}}
chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
}}
chain output {{
    type nat hook output priority -100; policy accept;
    jump services
    {own}
}}
chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct mark and 0x4000 == 0x4000 ct status dnat masquerade
    {hidden}
    ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade
    {masquerade}
}}
chain refuse {{
    {ip} daddr . meta l4proto . th dport @refused goto refuse_now
    fib daddr type local meta l4proto . th dport @refused_ports goto refuse_now
}}
chain refuse_now {{
    meta l4proto tcp reject with tcp reset
    reject with {unreachable}
}}
chain filter_input {{
    type filter hook input priority filter; policy accept;
    ct state new jump refuse
}}
chain filter_forward {{
    type filter hook forward priority filter; policy accept;
    ct state new jump refuse
}}
chain filter_output {{
    type filter hook output priority filter; policy accept;
    ct state new jump refuse
}}
chain raw_in {{
    type filter hook prerouting priority raw; policy accept;
    {guard}
    {pinned}
    {asked}
}}
chain raw_out {{
    type filter hook output priority raw; policy accept;
    {asked}
    {answered}
}}
"
    )
}

/// Leads an address to the chain of its service port, or nowhere if there is no endpoint.
fn add_address(table: &mut Table, key: &str, chain: &str, endpoints: &[Endpoint]) {
    if endpoints.is_empty() {
        table.add("refused", key);
    } else {
        table.map("services", key, format!("goto {chain}"));
    }
}

/// Adds the chain that comes back for who comes from one of `ranges`, and drops what others send. Returns its name.
fn add_guard(table: &mut Table, family: Family, (namespace, name): (&str, &str), ranges: &[String]) -> String {
    let ranges: Vec<IpNet> = ranges.iter().filter_map(|text| range(family, text.trim())).collect();
    // Older versions of `nft` refuse a set whose networks overlap.
    let ranges: Vec<String> = IpNet::aggregate(&ranges).iter().map(ToString::to_string).collect();
    let chain = format!("src_{}", nft::digest(&format!("{namespace}/{name}")));
    let ip = Words::of(family).ip;
    let mut rules = vec!["drop".to_string()];
    // Ranges of the other family alone let in nobody of this one.
    if !ranges.is_empty() {
        rules.insert(0, format!("{ip} saddr {{ {} }} return", ranges.join(", ")));
    }
    table.chains.insert(chain.clone(), rules);
    chain
}

/// Adds the chain that picks one of `endpoints`.
fn add_chain(
    table: &mut Table,
    family: Family,
    name: &str,
    endpoints: &[Endpoint],
    protocol: Protocol,
    affinity: Option<u32>,
) {
    if endpoints.is_empty() {
        return;
    }
    let Words { ip, address: kind, .. } = Words::of(family);
    for e in endpoints {
        table.add("hairpins", format!("{0} . {0}", e.address));
    }
    let mut rules = Vec::new();
    if let Some(timeout) = affinity {
        for e in endpoints {
            let set = format!("aff_{name}_{}", label(e.address));
            rules.push(format!(
                "{ip} saddr @{set} meta l4proto {protocol} update @{set} {{ {ip} saddr timeout {timeout}s }} dnat to {}",
                e.target()
            ));
            let header = format!("type {kind}; flags dynamic,timeout; timeout {timeout}s;");
            table.sets.insert(set, Set { header, ..Set::default() });
        }
        let goto: Vec<String> = endpoints.iter().map(|e| format!("goto {}", endpoint_chain(name, e))).collect();
        if endpoints.len() <= FEW {
            rules.extend(one_of(&goto));
        } else {
            let picks: Vec<String> = goto.iter().enumerate().map(|(i, goto)| format!("{i} : {goto}")).collect();
            rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), picks.join(", ")));
        }
        for e in endpoints {
            let set = format!("aff_{name}_{}", label(e.address));
            let update = format!(
                "meta l4proto {protocol} update @{set} {{ {ip} saddr timeout {timeout}s }} dnat to {}",
                e.target()
            );
            table.chains.insert(endpoint_chain(name, e), vec![update]);
        }
    } else if endpoints.len() <= FEW {
        let to: Vec<String> = endpoints.iter().map(|e| format!("dnat to {}", e.target())).collect();
        rules.extend(one_of(&to).iter().map(|rule| format!("meta l4proto {protocol} {rule}")));
    } else {
        let picks: Vec<String> =
            endpoints.iter().enumerate().map(|(i, e)| format!("{i} : {} . {}", e.address, e.port)).collect();
        let count = endpoints.len();
        rules.push(format!(
            "meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {count} map {{ {} }}",
            picks.join(", ")
        ));
    }
    table.chains.insert(name.into(), rules);
}

/// More endpoints than this are chosen among by one look into a map.
const FEW: usize = 8;

/// Rules that do one of a few things, each as often as the others. No map: the kernel finds a name for each nameless
/// one by looking at all others, so that ten thousand take half a minute.
fn one_of(things: &[String]) -> Vec<String> {
    let left = (1..=things.len()).rev();
    let rules = things.iter().zip(left).map(|(thing, left)| match left {
        1 => thing.clone(),
        left => format!("numgen random mod {left} 0 {thing}"),
    });
    rules.collect()
}

/// A network of the family, or an address as one.
fn range(family: Family, text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.ok().filter(|network| Family::of(network.addr()) == family).map(|network| network.trunc())
}

fn endpoint_chain(service: &str, e: &Endpoint) -> String {
    format!("{service}_{}_{}", label(e.address), e.port)
}

#[cfg(test)]
mod tests;
