//! The addresses of this machine.

use std::net::IpAddr;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::NetworkError;
use crate::link::connect;

/// The node's addresses, at most one of each family, IPv4 first: that of the interface of the default route, else of any interface but
/// loopback.
///
/// # Errors
/// When there is no address.
pub async fn default_addresses() -> Result<Vec<IpAddr>, NetworkError> {
    let handle = connect()?;
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        found.extend(default_address(&handle, family).await);
    }
    if found.is_empty() {
        return Err(NetworkError::NoLink("with an address that isn't loopback; --node-ip names one".into()));
    }
    Ok(found)
}

async fn default_address(handle: &Handle, family: AddressFamily) -> Option<IpAddr> {
    let mut by_route = None;
    let mut filter = RouteMessageBuilder::<IpAddr>::new().build();
    filter.header.address_family = family;
    let mut routes = handle.route().get(filter).execute();
    while let Ok(Some(route)) = routes.try_next().await {
        let has_destination = route.attributes.iter().any(|a| matches!(a, RouteAttribute::Destination(_)));
        if has_destination || route.header.destination_prefix_length > 0 {
            continue;
        }
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => return Some((*source).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => return Some((*source).into()),
                RouteAttribute::Oif(index) => by_route = by_route.or(Some(*index)),
                _ => {}
            }
        }
    }
    let mut addresses = handle.address().get().execute();
    let mut any = None;
    while let Ok(Some(address)) = addresses.try_next().await {
        if address.header.family != family {
            continue;
        }
        let local = address.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(IpAddr::V6(ip)) if ip.is_unicast_link_local() => None,
            AddressAttribute::Address(ip) if !ip.is_loopback() => Some(*ip),
            _ => None,
        });
        if let Some(ip) = local {
            if Some(address.header.index) == by_route {
                return Some(ip);
            }
            any = any.or(Some(ip));
        }
    }
    any
}
