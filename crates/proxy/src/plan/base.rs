//! The part of the table that doesn't depend on services: chains with hooks, and the sets and maps that they use.

use apimachinery::Family;
use network::nft::{FamilySyntax, Table};

use super::shared;
use crate::Config;

/// The table without any service.
pub fn base_table(config: &Config, family: Family) -> Table {
    let words = FamilySyntax::of(family);
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

/// The chains that don't depend on services.
pub(super) fn base(config: &Config, family: Family) -> String {
    let Config { cluster_dns, bridge, .. } = config;
    let words = FamilySyntax::of(family);
    let shared = shared::chains(&words);
    let FamilySyntax { ip, loopback, multicast, unreachable, .. } = words;
    // What pods send to the world leaves with the node's address.
    let masquerade = bridge.as_ref().zip(config.cluster_cidr.of(family)).map_or(String::new(), |(bridge, pods)| {
        format!("{ip} saddr {pods} {ip} daddr != {pods} {ip} daddr != {multicast} oifname != \"{bridge}\" masquerade")
    });
    // The machine's own programs reach its ports by 127.0.0.1, too (lib.rs says what that takes); nothing else may reach any there.
    let (mut own, mut hidden, mut guard) = (String::new(), String::new(), String::new());
    if family == Family::V4 {
        own = format!("{ip} daddr {loopback} meta l4proto . th dport vmap @node_ports");
        hidden = format!("ct status dnat {ip} saddr {loopback} masquerade");
        guard = format!("iif != \"lo\" {ip} daddr {loopback} drop\n    iif != \"lo\" {ip} saddr {loopback} drop");
    }
    // A pod speaks by its own addresses: the way back to whom it says it is must be the way that the packet came.
    let pinned = match bridge {
        Some(_) => format!("iifname \"{}*\" fib saddr . iif oif missing drop", network::VETH_PREFIX),
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
