//! From policies to rules: pure, no I/O.
//!
//! A map leads from a pod's address to the pod's chain, which asks the chains of all policies that select the pod and
//! then drops. Each rule of a policy has a set with the addresses of the pods that it is about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Family, LabelSelector};
use informer::Pod;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use network::LocalPod;
use network::nft::{self, Protocol, Set, Table, Words, label};

use crate::Config;

type Labels = BTreeMap<String, String>;

/// A pod with an address of its own.
struct Workload<'a> {
    labels: &'a Labels,
    address: IpAddr,
    is_here: bool,
    /// Named ports: name, protocol, number.
    ports: Vec<(String, Protocol, u16)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

impl Direction {
    /// The end of a packet that is the peer's.
    fn peer(self) -> &'static str {
        if self == Direction::In { "saddr" } else { "daddr" }
    }

    fn short(self) -> &'static str {
        if self == Direction::In { "in" } else { "out" }
    }

    fn map(self) -> &'static str {
        if self == Direction::In { "ingress" } else { "egress" }
    }
}

/// What rules are made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub policies: &'a [Arc<NetworkPolicy>],
    pub pods: &'a [Arc<Pod>],
    pub namespaces: &'a [Arc<Namespace>],
    /// This node's pods as the node knows them.
    pub local: &'a [Arc<LocalPod>],
}

/// All rules for a node in one family. Of a policy for which `allows` doesn't hold it counts only whom it selects, not what it allows.
pub fn rules(config: &Config, family: Family, input: Input<'_>, allows: impl Fn(&Arc<NetworkPolicy>) -> bool) -> Table {
    let Input { policies, pods, namespaces, local } = input;
    let verdict = format!("type {} : verdict;", Words::of(family).address);
    let mut table = Table::new(base(config, family)).with_set("ingress", &verdict).with_set("egress", &verdict);
    let mut workloads: BTreeMap<&str, Vec<Workload<'_>>> = BTreeMap::new();
    let mut here = Here::new(family, local);
    for (namespace, workload) in pods.iter().filter_map(|pod| workload(config, family, pod, &mut here)) {
        workloads.entry(namespace).or_default().push(workload);
    }
    for (namespace, workload) in here.rest() {
        workloads.entry(namespace).or_default().push(workload);
    }
    let namespaces: BTreeMap<String, &Labels> = namespaces.iter().map(|n| (n.name_any(), n.labels())).collect();
    let mut planner = Planner { family, workloads: &workloads, namespaces: &namespaces, table: &mut table };
    let mut policies: Vec<&Arc<NetworkPolicy>> = policies.iter().collect();
    policies.sort_by_key(|p| (p.namespace(), p.name_any()));
    for policy in policies {
        planner.add(policy, allows(policy));
    }
    // Who is selected gets what his policies allow, and nothing else.
    for (name, chain) in &mut table.chains {
        if name.starts_with("pod_") {
            chain.push("drop".into());
        }
    }
    table
}

/// The addresses whose pods some policy selects.
pub fn selected(table: &Table) -> BTreeSet<IpAddr> {
    let maps = ["ingress", "egress"].into_iter().filter_map(|map| table.sets.get(map));
    maps.flat_map(|map| map.elements.keys()).filter_map(|address| address.parse().ok()).collect()
}

fn base(config: &Config, family: Family) -> String {
    let ip = Words::of(family).ip;
    let dns = match config.cluster_dns {
        Some(dns) if Family::of(dns) == family => {
            format!("{ip} daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 accept")
        }
        _ => String::new(),
    };
    // Without these a pod would find no neighbour, not even its gateway (RFC 4890).
    let neighbours = match family {
        Family::V4 => "",
        Family::V6 => "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
    };
    let answers = "ct state related accept\n    ct direction reply ct state established accept";
    format!(
        "chain forward_out {{
    type filter hook forward priority filter - 2; policy accept;
    {answers}
    {ip} saddr vmap @egress
}}
chain forward_in {{
    type filter hook forward priority filter - 1; policy accept;
    {answers}
    {ip} daddr vmap @ingress
}}
chain input_out {{
    type filter hook input priority filter - 2; policy accept;
    {answers}
    {neighbours}
    {dns}
    {ip} saddr vmap @egress
}}
"
    )
}

/// This node's own pods that the API hasn't told of yet, or not with their addresses.
struct Here<'a> {
    family: Family,
    by_uid: HashMap<&'a str, &'a LocalPod>,
    owners: HashMap<IpAddr, &'a str>,
}

impl<'a> Here<'a> {
    fn new(family: Family, local: &'a [Arc<LocalPod>]) -> Self {
        let pairs = local.iter().flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.uid.as_str())));
        let by_uid = local.iter().map(|pod| (pod.uid.as_str(), pod.as_ref())).collect();
        Here { family, by_uid, owners: pairs.collect() }
    }

    /// The address of one of this node's pods: what the node says counts. None if another pod has it by now, or the pod is none of ours.
    fn address(&mut self, pod: &Pod, told: Option<IpAddr>) -> Option<IpAddr> {
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        if let Some(local) = self.by_uid.remove(uid) {
            return local.addresses.iter().copied().find(|address| Family::of(*address) == self.family);
        }
        told.filter(|address| self.owners.get(address).is_none_or(|owner| *owner == uid))
    }

    fn rest(self) -> impl Iterator<Item = (&'a str, Workload<'a>)> {
        self.by_uid.into_values().filter_map(move |pod| {
            let address = pod.addresses.iter().copied().find(|address| Family::of(*address) == self.family)?;
            let workload = Workload { labels: &pod.labels, address, is_here: true, ports: pod.ports.clone() };
            Some((pod.namespace.as_str(), workload))
        })
    }
}

/// The containers that run beside the pod's own: of those that come before, only sidecars do (KEP-753).
fn running(spec: &informer::pod::PodSpec) -> impl Iterator<Item = &informer::pod::Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// A pod, with its namespace, if it has an address of the family for itself.
fn workload<'a>(config: &Config, family: Family, pod: &'a Pod, here: &mut Here<'a>) -> Option<(&'a str, Workload<'a>)> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network == Some(true) || pod.is_over() {
        here.by_uid.remove(pod.metadata.uid.as_deref().unwrap_or(""));
        return None;
    }
    let is_here = spec.node_name.as_deref() == Some(config.node_name.as_str());
    let told = pod.ips().filter_map(|a| a.parse().ok()).find(|a| Family::of(*a) == family);
    let address = if is_here { here.address(pod, told)? } else { told? };
    let ports = running(spec).flat_map(|c| c.ports.iter().flatten());
    let named = ports
        .filter_map(|p| Some((p.name.clone()?, Protocol::of(p.protocol.as_deref())?, nft::port(p.container_port)?)));
    let workload = Workload { labels: pod.labels(), address, is_here, ports: named.collect() };
    Some((pod.metadata.namespace.as_deref()?, workload))
}

/// What a pod's rules may change with. Most of what pods tell of themselves is nothing to policies.
pub fn concerns(old: &Pod, new: &Pod) -> bool {
    fn node(pod: &Pod) -> Option<&str> {
        pod.spec.as_ref()?.node_name.as_deref()
    }
    old.metadata.labels != new.metadata.labels
        || !old.ips().eq(new.ips())
        || old.is_over() != new.is_over()
        || node(old) != node(new)
}

/// What a selector matches. One that can't be read selects nothing; the API lets none in.
fn reader(selector: &Selector) -> impl Fn(&Labels) -> bool {
    let read = serde_json::to_value(selector).ok().and_then(|v| LabelSelector::from_json(&v).ok());
    move |labels| read.as_ref().is_some_and(|s| s.matches_map(Some(labels)))
}

struct Planner<'a> {
    family: Family,
    /// By namespace.
    workloads: &'a BTreeMap<&'a str, Vec<Workload<'a>>>,
    namespaces: &'a BTreeMap<String, &'a Labels>,
    table: &'a mut Table,
}

/// A rule of a policy, for either direction.
struct Rule<'a> {
    peers: Option<&'a Vec<NetworkPolicyPeer>>,
    ports: Option<&'a Vec<NetworkPolicyPort>>,
}

impl<'a> Planner<'a> {
    fn add(&mut self, policy: &NetworkPolicy, allows: bool) {
        let Some(spec) = &policy.spec else { return };
        let namespace = policy.namespace().unwrap_or_default();
        let everything = Selector::default();
        let selects = reader(spec.pod_selector.as_ref().unwrap_or(&everything));
        let targets: Vec<&Workload<'_>> =
            self.workloads_of(&namespace).iter().filter(|w| w.is_here && selects(w.labels)).collect();
        if targets.is_empty() {
            return;
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let wants =
            |kind: &str, otherwise: bool| if types.is_empty() { otherwise } else { types.iter().any(|t| t == kind) };
        let base = format!("np_{}", nft::digest(&format!("{namespace}/{}", policy.name_any())));
        if wants("Ingress", true) {
            let rules = spec.ingress.iter().flatten().filter(|_| allows);
            let rules = rules.map(|r| Rule { peers: r.from.as_ref(), ports: r.ports.as_ref() }).collect();
            self.add_direction(Direction::In, &base, &namespace, &targets, rules);
        }
        if wants("Egress", spec.egress.is_some()) {
            let rules = spec.egress.iter().flatten().filter(|_| allows);
            let rules = rules.map(|r| Rule { peers: r.to.as_ref(), ports: r.ports.as_ref() }).collect();
            self.add_direction(Direction::Out, &base, &namespace, &targets, rules);
        }
    }

    fn add_direction(
        &mut self,
        direction: Direction,
        base: &str,
        namespace: &str,
        targets: &[&Workload<'_>],
        rules: Vec<Rule<'_>>,
    ) {
        let chain = format!("{base}_{}", direction.short());
        let mut lines = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            lines.extend(self.rule(direction, &format!("{chain}_{i}"), namespace, targets, rule));
        }
        self.table.chains.insert(chain.clone(), lines);
        for target in targets {
            let pod = format!("pod_{}_{}", direction.short(), label(target.address));
            self.table.map(direction.map(), target.address.to_string(), format!("goto {pod}"));
            self.table.chains.entry(pod).or_default().push(format!("jump {chain}"));
        }
    }

    fn rule(
        &mut self,
        direction: Direction,
        set: &str,
        namespace: &str,
        targets: &[&Workload<'_>],
        rule: &Rule<'_>,
    ) -> Vec<String> {
        // Nobody named is everybody.
        let peers = rule.peers.filter(|p| !p.is_empty()).map(|peers| distinct(peers));
        let about: Vec<&Workload<'_>> = match &peers {
            Some(peers) => {
                let mut about = BTreeMap::new();
                for peer in peers {
                    about.extend(self.about(peer, namespace).into_iter().map(|workload| (workload.address, workload)));
                }
                about.into_values().collect()
            }
            None => self.workloads.values().flatten().collect(),
        };
        let end = direction.peer();
        let Words { ip, address, .. } = Words::of(self.family);
        let mut from = Vec::new();
        if let Some(peers) = &peers {
            from.extend(peers.iter().filter_map(|p| block(self.family, p.ip_block.as_ref()?, end)));
            if !about.is_empty() {
                let elements = about.iter().map(|w| (w.address.to_string(), None)).collect();
                self.table.sets.insert(set.into(), Set { header: format!("type {address};"), elements });
                from.push(format!("{ip} {end} @{set}"));
            }
        } else {
            from.push(String::new());
        }
        // A named port is one of who is connected to.
        let receivers = if direction == Direction::In { targets.to_vec() } else { about };
        let to: Vec<String> = match rule.ports.filter(|p| !p.is_empty()).map(|ports| distinct(ports)) {
            Some(ports) => {
                let named = named(&ports, &receivers);
                ports.iter().filter_map(|p| port(ip, p, &named)).collect()
            }
            None => vec![String::new()],
        };
        let words = |f: &str, t: &str, verdict: &str| {
            let words = [f, t, verdict];
            words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
        };
        if from.len().saturating_mul(to.len()) <= INLINE {
            return from.iter().flat_map(|f| to.iter().map(move |t| words(f, t, "accept"))).collect();
        }
        // As many rules as there are peers and ports together: each peer times each port is more than any machine has room for.
        let ports = format!("{set}_ports");
        self.table.chains.insert(ports.clone(), to.iter().map(|t| words("", t, "accept")).collect());
        from.iter().map(|f| words(f, "", &format!("jump {ports}"))).collect()
    }

    fn workloads_of(&self, namespace: &str) -> &'a [Workload<'a>] {
        self.workloads.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pods that a peer means by selectors.
    fn about(&self, peer: &NetworkPolicyPeer, namespace: &str) -> Vec<&'a Workload<'a>> {
        let namespaces: Vec<&str> = match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
            (Some(_), ..) | (None, None, None) => Vec::new(),
            (None, _, Some(selector)) => {
                let selects = reader(selector);
                self.namespaces.iter().filter(|(_, labels)| selects(labels)).map(|(name, _)| name.as_str()).collect()
            }
            (None, Some(_), None) => vec![namespace],
        };
        let selects = peer.pod_selector.as_ref().map(reader);
        let all = namespaces.iter().flat_map(|namespace| self.workloads_of(namespace));
        all.filter(|w| selects.as_ref().is_none_or(|selects| selects(w.labels))).collect()
    }
}

/// How many combinations of peers and ports are written as a rule each.
const INLINE: usize = 64;

/// Each once: what an author repeats thousands of times is looked at once.
fn distinct<T: std::fmt::Debug>(all: &[T]) -> Vec<&T> {
    let mut seen = HashSet::new();
    all.iter().filter(|one| seen.insert(format!("{one:?}"))).collect()
}

/// Where ports are that are meant by a name: `address . number` by name and protocol. Nothing is looked for if no port has a name.
fn named<'a>(ports: &[&NetworkPolicyPort], receivers: &[&'a Workload<'_>]) -> Named<'a> {
    let mut named = Named::new();
    if !ports.iter().any(|port| matches!(port.port, Some(IntOrString::String(_)))) {
        return named;
    }
    for workload in receivers {
        for (name, protocol, number) in &workload.ports {
            let places = named.entry((name.as_str(), *protocol)).or_default();
            places.insert(format!("{} . {number}", workload.address));
        }
    }
    named
}

type Named<'a> = BTreeMap<(&'a str, Protocol), BTreeSet<String>>;

fn block(family: Family, block: &IPBlock, end: &str) -> Option<String> {
    let read = |text: &str| text.parse::<IpNet>().ok().filter(|network| Family::of(network.addr()) == family);
    let network = read(&block.cidr)?;
    let except: Vec<IpNet> = block.except.iter().flatten().filter_map(|e| Some(read(e)?.trunc())).collect();
    // Older versions of `nft` refuse a set whose networks overlap.
    let except: Vec<String> = IpNet::aggregate(&except).iter().map(ToString::to_string).collect();
    let ip = Words::of(family).ip;
    let all = format!("{ip} {end} {}", network.trunc());
    Some(if except.is_empty() { all } else { format!("{all} {ip} {end} != {{ {} }}", except.join(", ")) })
}

fn port(ip: &str, port: &NetworkPolicyPort, named: &Named<'_>) -> Option<String> {
    let protocol = Protocol::of(port.protocol.as_deref())?;
    match (&port.port, port.end_port) {
        (None, _) => Some(format!("meta l4proto {protocol}")),
        (Some(IntOrString::Int(first)), Some(last)) => {
            let (first, last) = (nft::port(*first)?, nft::port(last)?);
            (first <= last).then(|| format!("{protocol} dport {first}-{last}"))
        }
        (Some(IntOrString::Int(number)), None) => Some(format!("{protocol} dport {}", nft::port(*number)?)),
        (Some(IntOrString::String(name)), _) => {
            let places: Vec<&str> = named.get(&(name.as_str(), protocol))?.iter().map(String::as_str).collect();
            Some(format!("{ip} daddr . {protocol} dport {{ {} }}", places.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests;
