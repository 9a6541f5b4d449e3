//! Chains that all services with few endpoints share, so that a change of such a service is one of elements alone.
//!
//! A service with three endpoints is an element that leads to the chain for three, which goes to one of the first three ends; the end
//! looks up what the service has in its place. A change writes no rule: for rules `nft` first reads all chains, and the kernel
//! walks along them all once more, which with ten thousand services took sixty of seventy milliseconds.
//!
//! Keys of the maps are made as their values are, address and port, as older versions of `nft` (0.9.8) want them so; hence a map for each
//! protocol.

use std::net::IpAddr;

use network::nft::{Protocol, Table, Words};

use super::Endpoint;

/// Services with more endpoints have chains of their own.
pub const MOST: usize = 8;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn map(protocol: Protocol, place: usize) -> String {
    format!("{protocol}_{place}")
}

/// The chain that chooses among as many endpoints.
fn pick(protocol: Protocol, count: usize) -> String {
    format!("pick_{protocol}_{count}")
}

/// The chains, for the table's base.
pub fn chains(words: &Words) -> String {
    let ip = words.ip;
    let mut text = String::new();
    for protocol in PROTOCOLS {
        for place in 0..MOST {
            let map = map(protocol, place);
            text.push_str(&format!(
                "chain end_{map} {{\n    meta l4proto {protocol} dnat {ip} addr . port to {ip} daddr . th dport map @{map}\n}}\n"
            ));
        }
        for count in 1..=MOST {
            let ends: Vec<String> =
                (0..count).map(|place| format!("{place} : goto end_{}", map(protocol, place))).collect();
            let choice = match count {
                1 => format!("goto end_{}", map(protocol, 0)),
                _ => format!("numgen random mod {count} vmap {{ {} }}", ends.join(", ")),
            };
            text.push_str(&format!("chain {} {{\n    {choice}\n}}\n", pick(protocol, count)));
        }
    }
    text
}

/// Declares the maps that the chains use.
pub fn declare(mut table: Table, words: &Words) -> Table {
    let place = format!("{} . inet_service", words.address);
    for protocol in PROTOCOLS {
        for number in 0..MOST {
            table = table.with_set(&map(protocol, number), &format!("type {place} : {place};"));
        }
    }
    table
}

/// Puts the endpoints of an address and port into their places; returns the chain that chooses among them.
pub fn place(table: &mut Table, protocol: Protocol, address: IpAddr, port: u16, endpoints: &[Endpoint]) -> String {
    for (number, endpoint) in endpoints.iter().enumerate() {
        let to = format!("{} . {}", endpoint.address, endpoint.port);
        table.map(&map(protocol, number), format!("{address} . {port}"), to);
        table.add("hairpins", format!("{0} . {0}", endpoint.address));
    }
    pick(protocol, endpoints.len())
}
