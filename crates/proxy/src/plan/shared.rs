//! Chains that all services with few endpoints share, so that a change of such a service changes elements of sets alone.
//!
//! A service with three endpoints is an element that leads to the chain for three endpoints, which goes to the chain of one of the slots
//! 0 to 2 at random; that chain looks up the service's endpoint in the map of the slot. A change writes no rule: for rules, `nft` first
//! reads all chains, and the kernel validates all of them, which took 60 of 70 ms with ten thousand services.
//!
//! Keys of the maps have the type of their values, address and port, as old versions of `nft` (0.9.8) require; hence a map per protocol.

use std::net::IpAddr;

use network::nft::{FamilySyntax, Protocol, Table};

use super::Endpoint;

/// Services with more endpoints have chains of their own.
pub const MAX_SHARED_ENDPOINTS: usize = 8;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn map(protocol: Protocol, slot: usize) -> String {
    format!("{protocol}_{slot}")
}

/// The name of the chain that picks one of so many endpoints.
fn pick(protocol: Protocol, count: usize) -> String {
    format!("pick_{protocol}_{count}")
}

/// The shared chains, for the table's base.
pub fn chains(words: &FamilySyntax) -> String {
    let ip = words.ip;
    let mut text = String::new();
    for protocol in PROTOCOLS {
        for slot in 0..MAX_SHARED_ENDPOINTS {
            let map = map(protocol, slot);
            text.push_str(&format!(
                "chain end_{map} {{\n    meta l4proto {protocol} dnat {ip} addr . port to {ip} daddr . th dport map @{map}\n}}\n"
            ));
        }
        for count in 1..=MAX_SHARED_ENDPOINTS {
            let ends: Vec<String> =
                (0..count).map(|slot| format!("{slot} : goto end_{}", map(protocol, slot))).collect();
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
pub fn declare(mut table: Table, words: &FamilySyntax) -> Table {
    let slot = format!("{} . inet_service", words.address);
    for protocol in PROTOCOLS {
        for number in 0..MAX_SHARED_ENDPOINTS {
            table = table.with_set(&map(protocol, number), &format!("type {slot} : {slot};"));
        }
    }
    table
}

/// Puts the endpoints of an address and port into the slots' maps; returns the chain that picks one of them.
pub fn place_endpoints(
    table: &mut Table,
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    endpoints: &[Endpoint],
) -> String {
    for (number, endpoint) in endpoints.iter().enumerate() {
        let to = format!("{} . {}", endpoint.address, endpoint.port);
        table.map(&map(protocol, number), format!("{address} . {port}"), to);
        table.add("hairpins", format!("{0} . {0}", endpoint.address));
    }
    pick(protocol, endpoints.len())
}
