//! What a rule of a policy matches, in the words of nftables.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Family;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use network::nft::{self, FamilySyntax, Protocol};

use super::pods::PolicyPod;

/// Addresses of named ports, as `address . number`, by name and protocol. Empty if the rule names no port.
pub(super) fn named_ports<'a>(ports: &[&NetworkPolicyPort], receivers: &[&'a PolicyPod<'_>]) -> NamedPorts<'a> {
    let mut named = NamedPorts::new();
    if !ports.iter().any(|port| matches!(port.port, Some(IntOrString::String(_)))) {
        return named;
    }
    for pod in receivers {
        for (name, protocol, number) in &pod.ports {
            let places = named.entry((name.as_str(), *protocol)).or_default();
            places.insert(format!("{} . {number}", pod.address));
        }
    }
    named
}

pub(super) type NamedPorts<'a> = BTreeMap<(&'a str, Protocol), BTreeSet<String>>;

pub(super) fn ip_block_match(family: Family, block: &IPBlock, end: &str) -> Option<String> {
    let read = |text: &str| text.parse::<IpNet>().ok().filter(|network| Family::of(network.addr()) == family);
    let network = read(&block.cidr)?;
    let except: Vec<IpNet> = block.except.iter().flatten().filter_map(|e| Some(read(e)?.trunc())).collect();
    // Older versions of `nft` refuse a set whose networks overlap.
    let except: Vec<String> = IpNet::aggregate(&except).iter().map(ToString::to_string).collect();
    let ip = FamilySyntax::of(family).ip;
    let all = format!("{ip} {end} {}", network.trunc());
    Some(if except.is_empty() { all } else { format!("{all} {ip} {end} != {{ {} }}", except.join(", ")) })
}

pub(super) fn port_match(ip: &str, port: &NetworkPolicyPort, named: &NamedPorts<'_>) -> Option<String> {
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
