//! One service of the zone, with its endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::labels::address_label;

/// A service with its EndpointSlices.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub service: Arc<Service>,
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// An address behind a name, with a port for SRV records.
pub(super) struct Found {
    pub address: IpAddr,
    pub port: u16,
    /// The name of the address, as the target of SRV records.
    pub owner: String,
}

/// The labels before a service's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NamePart<'a> {
    All,
    Endpoint(&'a str),
    Port { name: &'a str, protocol: &'a str },
}

impl Entry {
    pub fn is_external(&self) -> bool {
        self.service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("ExternalName"))
    }

    pub fn is_headless(&self) -> bool {
        self.service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let listed = self.service.spec.iter().flat_map(|s| s.cluster_ips.iter().flatten());
        listed.filter_map(|ip| ip.parse().ok())
    }

    /// The ready endpoints: label, address, and their slice.
    pub fn endpoints(&self) -> impl Iterator<Item = (String, IpAddr, &EndpointSlice)> {
        let unready = self.service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true));
        self.slices.iter().flat_map(move |slice| {
            let ready = move |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
                unready || e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
            };
            slice.endpoints.iter().flatten().filter(ready).flat_map(move |endpoint| {
                endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(move |address| {
                    let label = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
                    let label = label.map_or_else(|| address_label(address), |name| name.to_ascii_lowercase());
                    (label, address, slice.as_ref())
                })
            })
        })
    }

    /// The addresses of a name below the service's name; `base` is the service's full name.
    pub fn find(&self, part: NamePart<'_>, base: &str) -> Vec<Found> {
        let wanted = |name: Option<&str>, protocol: Option<&str>| match part {
            NamePart::Port { name: n, protocol: p } => {
                name.unwrap_or("").eq_ignore_ascii_case(n) && protocol.unwrap_or("TCP").eq_ignore_ascii_case(p)
            }
            _ => true,
        };
        let number = |port: i32| u16::try_from(port).unwrap_or(0);
        if self.is_headless() || matches!(part, NamePart::Endpoint(_)) {
            let of_name = |label: &str| !matches!(part, NamePart::Endpoint(name) if name != label);
            let endpoints = self.endpoints().filter(|(label, ..)| of_name(label));
            return endpoints
                .flat_map(|(label, address, slice)| {
                    let owner = format!("{label}.{base}");
                    let ports = slice.ports.as_deref().unwrap_or_default();
                    let open = ports.iter().filter(|p| wanted(p.name.as_deref(), p.protocol.as_deref()));
                    let mut ports: Vec<u16> = open.map(|p| p.port.map_or(0, number)).collect();
                    // An endpoint without ports has an address nevertheless.
                    if slice.ports.as_ref().is_none_or(Vec::is_empty) && !matches!(part, NamePart::Port { .. }) {
                        ports.push(0);
                    }
                    ports.into_iter().map(move |port| Found { address, port, owner: owner.clone() })
                })
                .collect();
        }
        let ports = self.service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let ports = ports.filter(|p| wanted(p.name.as_deref(), p.protocol.as_deref()));
        ports
            .flat_map(|p| {
                self.addresses().map(|address| Found { address, port: number(p.port), owner: base.to_string() })
            })
            .collect()
    }
}
