//! Chains of service ports: choice of an endpoint, session affinity, source ranges.

use std::net::IpAddr;

use apimachinery::Family;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServicePort;
use network::nft::{self, FamilySyntax, Protocol, Set, Table, address_label};

use super::endpoints::Endpoint;

/// The name of a service port's chain: readable, unique, and within the limits of nftables.
pub(super) fn chain_name(namespace: &str, name: &str, port: &ServicePort, protocol: Protocol) -> String {
    let port_name = port.name.as_deref().unwrap_or_default();
    // The digest tells names apart that differ in removed letters or in what is cut off.
    let hash = nft::digest(&format!("{namespace}/{name}/{port_name}/{protocol}/{}", port.port));
    let (namespace, name) = (nft::sanitize_name(namespace, 32), nft::sanitize_name(name, 40));
    format!("svc_{namespace}_{name}_{}_{hash}", port.port)
}

/// Leads an address to the chain of its service port, or rejects its traffic if there is no endpoint.
pub(super) fn add_address(table: &mut Table, key: &str, chain: &str, endpoints: &[Endpoint]) {
    if endpoints.is_empty() {
        table.add("refused", key);
    } else {
        table.map("services", key, format!("goto {chain}"));
    }
}

/// Adds the chain of a service that returns for sources in `loadBalancerSourceRanges` and drops other traffic; returns its name.
pub(super) fn add_source_range_chain(
    table: &mut Table,
    family: Family,
    (namespace, name): (&str, &str),
    ranges: &[String],
) -> String {
    let ranges: Vec<IpNet> = ranges.iter().filter_map(|text| parse_network(family, text.trim())).collect();
    // Older versions of `nft` refuse a set whose networks overlap.
    let ranges: Vec<String> = IpNet::aggregate(&ranges).iter().map(ToString::to_string).collect();
    let chain = format!("src_{}", nft::digest(&format!("{namespace}/{name}")));
    let ip = FamilySyntax::of(family).ip;
    let mut rules = vec!["drop".to_string()];
    // Ranges of the other family alone allow no source of this one.
    if !ranges.is_empty() {
        rules.insert(0, format!("{ip} saddr {{ {} }} return", ranges.join(", ")));
    }
    table.chains.insert(chain.clone(), rules);
    chain
}

/// Adds a chain that picks one of `endpoints`, with session affinity for so many seconds.
pub(super) fn add_chain(
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
    let FamilySyntax { ip, address: kind, .. } = FamilySyntax::of(family);
    for e in endpoints {
        table.add("hairpins", format!("{0} . {0}", e.address));
    }
    let mut rules = Vec::new();
    if let Some(timeout) = affinity {
        for e in endpoints {
            let set = format!("aff_{name}_{}", address_label(e.address));
            rules.push(format!(
                "{ip} saddr @{set} meta l4proto {protocol} update @{set} {{ {ip} saddr timeout {timeout}s }} dnat to {}",
                e.target()
            ));
            let header = format!("type {kind}; flags dynamic,timeout; timeout {timeout}s;");
            table.sets.insert(set, Set { header, ..Set::default() });
        }
        let goto: Vec<String> = endpoints.iter().map(|e| format!("goto {}", endpoint_chain(name, e))).collect();
        if endpoints.len() <= MAX_INLINE_ENDPOINTS {
            rules.extend(random_choice_rules(&goto));
        } else {
            let picks: Vec<String> = goto.iter().enumerate().map(|(i, goto)| format!("{i} : {goto}")).collect();
            rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), picks.join(", ")));
        }
        for e in endpoints {
            let set = format!("aff_{name}_{}", address_label(e.address));
            let update = format!(
                "meta l4proto {protocol} update @{set} {{ {ip} saddr timeout {timeout}s }} dnat to {}",
                e.target()
            );
            table.chains.insert(endpoint_chain(name, e), vec![update]);
        }
    } else if endpoints.len() <= MAX_INLINE_ENDPOINTS {
        let to: Vec<String> = endpoints.iter().map(|e| format!("dnat to {}", e.target())).collect();
        rules.extend(random_choice_rules(&to).iter().map(|rule| format!("meta l4proto {protocol} {rule}")));
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

/// With more endpoints than this, the chain picks one by a map look-up instead of by rules.
pub(super) const MAX_INLINE_ENDPOINTS: usize = 8;

/// Rules that pick one of a few statements with equal probability. They use no anonymous map: the kernel finds a name for each by
/// comparing it with all others, so that ten thousand of them take half a minute.
pub(super) fn random_choice_rules(things: &[String]) -> Vec<String> {
    let left = (1..=things.len()).rev();
    let rules = things.iter().zip(left).map(|(thing, left)| match left {
        1 => thing.clone(),
        left => format!("numgen random mod {left} 0 {thing}"),
    });
    rules.collect()
}

/// Parses a network or an address of the family.
pub(super) fn parse_network(family: Family, text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.ok().filter(|network| Family::of(network.addr()) == family).map(|network| network.trunc())
}

pub(super) fn endpoint_chain(service: &str, e: &Endpoint) -> String {
    format!("{service}_{}_{}", address_label(e.address), e.port)
}
