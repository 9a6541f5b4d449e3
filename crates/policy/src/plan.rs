//! From NetworkPolicies to a table of nftables: pure, no I/O.
//!
//! A verdict map leads from a pod's address to the pod's chain, which jumps to the chains of all policies that select the pod, and then
//! drops. Each rule of a policy has a set with the addresses of the peers that it selects.

mod matches;
mod pods;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Family, LabelSelector};
use informer::Pod;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use kube::ResourceExt as _;
use network::LocalPod;
use network::nft::{self, FamilySyntax, Set, Table, address_label};

use crate::Config;
use matches::{ip_block_match, named_ports, port_match};
use pods::{LocalPodIndex, PolicyPod, policy_pod};

type Labels = BTreeMap<String, String>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

impl Direction {
    /// The address of a packet that is the peer's.
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

/// The objects that rules are planned from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// All policies.
    pub policies: &'a [Arc<NetworkPolicy>],
    /// All pods of the cluster.
    pub pods: &'a [Arc<Pod>],
    /// All namespaces.
    pub namespaces: &'a [Arc<Namespace>],
    /// This node's pods, as the kubelet knows them.
    pub local: &'a [Arc<LocalPod>],
}

/// Plans the table of a node in one family. A policy for which `allows` is false isolates its pods and allows nothing.
pub fn plan_table(
    config: &Config,
    family: Family,
    input: Input<'_>,
    allows: impl Fn(&Arc<NetworkPolicy>) -> bool,
) -> Table {
    let Input { policies, pods, namespaces, local } = input;
    let verdict = format!("type {} : verdict;", FamilySyntax::of(family).address);
    let mut table = Table::new(base(config, family)).with_set("ingress", &verdict).with_set("egress", &verdict);
    let mut policy_pods: BTreeMap<&str, Vec<PolicyPod<'_>>> = BTreeMap::new();
    let mut local_pods = LocalPodIndex::new(family, local);
    for (namespace, policy_pod) in pods.iter().filter_map(|pod| policy_pod(config, family, pod, &mut local_pods)) {
        policy_pods.entry(namespace).or_default().push(policy_pod);
    }
    for (namespace, policy_pod) in local_pods.rest() {
        policy_pods.entry(namespace).or_default().push(policy_pod);
    }
    let namespaces: BTreeMap<String, &Labels> = namespaces.iter().map(|n| (n.name_any(), n.labels())).collect();
    let mut planner = Planner { family, policy_pods: &policy_pods, namespaces: &namespaces, table: &mut table };
    let mut policies: Vec<&Arc<NetworkPolicy>> = policies.iter().collect();
    policies.sort_by_key(|p| (p.namespace(), p.name_any()));
    for policy in policies {
        planner.add(policy, allows(policy));
    }
    // An isolated pod gets only the traffic that its policies allow.
    for (name, chain) in &mut table.chains {
        if name.starts_with("pod_") {
            chain.push("drop".into());
        }
    }
    table
}

/// The addresses of isolated pods: those that at least one policy selects.
pub fn isolated_addresses(table: &Table) -> BTreeSet<IpAddr> {
    let maps = ["ingress", "egress"].into_iter().filter_map(|map| table.sets.get(map));
    maps.flat_map(|map| map.elements.keys()).filter_map(|address| address.parse().ok()).collect()
}

fn base(config: &Config, family: Family) -> String {
    let ip = FamilySyntax::of(family).ip;
    let dns = match config.cluster_dns {
        Some(dns) if Family::of(dns) == family => {
            format!("{ip} daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 accept")
        }
        _ => String::new(),
    };
    // Without neighbour discovery a pod couldn't reach its gateway (RFC 4890).
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

/// Whether a change of a pod can change rules. Most status updates can't.
pub fn affects_rules(old: &Pod, new: &Pod) -> bool {
    fn node(pod: &Pod) -> Option<&str> {
        pod.spec.as_ref()?.node_name.as_deref()
    }
    old.metadata.labels != new.metadata.labels
        || !old.ips().eq(new.ips())
        || old.is_over() != new.is_over()
        || node(old) != node(new)
}

/// The predicate of a label selector. A malformed one, which the API doesn't admit, selects nothing.
fn selector_matcher(selector: &Selector) -> impl Fn(&Labels) -> bool {
    let read = serde_json::to_value(selector).ok().and_then(|v| LabelSelector::from_json(&v).ok());
    move |labels| read.as_ref().is_some_and(|s| s.matches_map(Some(labels)))
}

struct Planner<'a> {
    family: Family,
    /// By namespace.
    policy_pods: &'a BTreeMap<&'a str, Vec<PolicyPod<'a>>>,
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
        let selects = selector_matcher(spec.pod_selector.as_ref().unwrap_or(&everything));
        let targets: Vec<&PolicyPod<'_>> =
            self.pods_in(&namespace).iter().filter(|w| w.is_local && selects(w.labels)).collect();
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
        targets: &[&PolicyPod<'_>],
        rules: Vec<Rule<'_>>,
    ) {
        let chain = format!("{base}_{}", direction.short());
        let mut lines = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            lines.extend(self.rule(direction, &format!("{chain}_{i}"), namespace, targets, rule));
        }
        self.table.chains.insert(chain.clone(), lines);
        for target in targets {
            let pod = format!("pod_{}_{}", direction.short(), address_label(target.address));
            self.table.map(direction.map(), target.address.to_string(), format!("goto {pod}"));
            self.table.chains.entry(pod).or_default().push(format!("jump {chain}"));
        }
    }

    fn rule(
        &mut self,
        direction: Direction,
        set: &str,
        namespace: &str,
        targets: &[&PolicyPod<'_>],
        rule: &Rule<'_>,
    ) -> Vec<String> {
        // Without peers a rule allows all of them.
        let peers = rule.peers.filter(|p| !p.is_empty()).map(|peers| distinct(peers));
        let selected_pods: Vec<&PolicyPod<'_>> = match &peers {
            Some(peers) => {
                let mut selected_pods = BTreeMap::new();
                for peer in peers {
                    selected_pods.extend(self.selected_pods(peer, namespace).into_iter().map(|pod| (pod.address, pod)));
                }
                selected_pods.into_values().collect()
            }
            None => self.policy_pods.values().flatten().collect(),
        };
        let end = direction.peer();
        let FamilySyntax { ip, address, .. } = FamilySyntax::of(self.family);
        let mut from = Vec::new();
        if let Some(peers) = &peers {
            from.extend(peers.iter().filter_map(|p| ip_block_match(self.family, p.ip_block.as_ref()?, end)));
            if !selected_pods.is_empty() {
                let elements = selected_pods.iter().map(|w| (w.address.to_string(), None)).collect();
                self.table.sets.insert(set.into(), Set { header: format!("type {address};"), elements });
                from.push(format!("{ip} {end} @{set}"));
            }
        } else {
            from.push(String::new());
        }
        // A named port is looked up in the pod that receives the connection.
        let receivers = if direction == Direction::In { targets.to_vec() } else { selected_pods };
        let to: Vec<String> = match rule.ports.filter(|p| !p.is_empty()).map(|ports| distinct(ports)) {
            Some(ports) => {
                let named = named_ports(&ports, &receivers);
                ports.iter().filter_map(|p| port_match(ip, p, &named)).collect()
            }
            None => vec![String::new()],
        };
        let words = |f: &str, t: &str, verdict: &str| {
            let words = [f, t, verdict];
            words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
        };
        if from.len().saturating_mul(to.len()) <= MAX_INLINE_RULES {
            return from.iter().flat_map(|f| to.iter().map(move |t| words(f, t, "accept"))).collect();
        }
        // One rule per peer and one per port: the product of both may be more than a machine has room for.
        let ports = format!("{set}_ports");
        self.table.chains.insert(ports.clone(), to.iter().map(|t| words("", t, "accept")).collect());
        from.iter().map(|f| words(f, "", &format!("jump {ports}"))).collect()
    }

    fn pods_in(&self, namespace: &str) -> &'a [PolicyPod<'a>] {
        self.policy_pods.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pods that a peer's selectors select.
    fn selected_pods(&self, peer: &NetworkPolicyPeer, namespace: &str) -> Vec<&'a PolicyPod<'a>> {
        let namespaces: Vec<&str> = match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
            (Some(_), ..) | (None, None, None) => Vec::new(),
            (None, _, Some(selector)) => {
                let selects = selector_matcher(selector);
                self.namespaces.iter().filter(|(_, labels)| selects(labels)).map(|(name, _)| name.as_str()).collect()
            }
            (None, Some(_), None) => vec![namespace],
        };
        let selects = peer.pod_selector.as_ref().map(selector_matcher);
        let all = namespaces.iter().flat_map(|namespace| self.pods_in(namespace));
        all.filter(|w| selects.as_ref().is_none_or(|selects| selects(w.labels))).collect()
    }
}

/// Up to this many combinations of peers and ports, each is a rule.
const MAX_INLINE_RULES: usize = 64;

/// The distinct elements of a list, as an author may repeat one thousands of times.
fn distinct<T: std::fmt::Debug>(all: &[T]) -> Vec<&T> {
    let mut seen = HashSet::new();
    all.iter().filter(|one| seen.insert(format!("{one:?}"))).collect()
}

#[cfg(test)]
mod tests;
