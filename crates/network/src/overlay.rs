//! VXLAN (RFC 7348) to nodes on other network segments.
//!
//! Address learning and ARP aren't used: the forwarding database and neighbour entries follow from the Node objects. A node's VTEP has a MAC
//! address that is derived from the node's address, and the first address of the node's pod CIDR.

use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::RouteFlags;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use crate::error::{NetworkError, invalid, netlink};
use crate::link::{add_address, connect, ignore_exists, index, mac_address, route_to};

/// UDP port: Linux's default, as used by flannel; IANA's is 4789.
const VXLAN_PORT: u16 = 8472;
const VNI: u32 = 1;
/// Outer Ethernet, IP, UDP and VXLAN headers.
const VXLAN_OVERHEAD_V4_BYTES: u32 = 50;
const VXLAN_OVERHEAD_V6_BYTES: u32 = 70;

/// This node's VTEP.
#[derive(Clone)]
pub struct Overlay {
    handle: Handle,
    index: u32,
}

/// The link-local address of a VTEP, the next hop for its IPv6 pods.
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

/// Interfaces with the networks of their addresses.
async fn connected_networks(handle: &Handle) -> Result<Vec<(u32, IpNet)>, NetworkError> {
    let all: Vec<_> = handle.address().get().execute().try_collect().await.map_err(netlink("listing addresses"))?;
    let segment = |message: &rtnetlink::packet_route::address::AddressMessage| {
        let address = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })?;
        Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
    };
    Ok(all.iter().filter_map(segment).collect())
}

/// Whether `node` is on a directly connected network.
///
/// # Errors
/// Those of the kernel.
pub async fn is_neighbour(node: IpAddr) -> Result<bool, NetworkError> {
    let found = connected_networks(&connect()?).await?;
    Ok(found.iter().any(|(_, network)| network.prefix_len() < network.max_prefix_len() && network.contains(&node)))
}

impl Overlay {
    /// Creates this node's VTEP if it doesn't exist. `own` is the node's address, `ranges` its pod CIDRs.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn ensure(name: &str, own: IpAddr, ranges: &[IpNet]) -> Result<Self, NetworkError> {
        let handle = connect()?;
        let found = connected_networks(&handle).await?;
        let below = found.iter().find(|(_, network)| network.addr() == own).map(|(index, _)| *index);
        let mtu = match below {
            Some(index) => mtu(&handle, index).await?,
            None => 1500,
        };
        let mut link = LinkVxlan::new(name, VNI).port(VXLAN_PORT).learning(false);
        let overhead = match own {
            IpAddr::V4(own) => {
                link = link.local(own);
                VXLAN_OVERHEAD_V4_BYTES
            }
            IpAddr::V6(own) => {
                link = link.local6(own);
                VXLAN_OVERHEAD_V6_BYTES
            }
        };
        if let Some(index) = below {
            link = link.dev(index);
        }
        let link = link.address(mac_address(own).to_vec()).mtu(mtu.saturating_sub(overhead)).build();
        ignore_exists(handle.link().add(link).execute().await)
            .map_err(netlink(format!("making the overlay {name}")))?;
        let index = index(&handle, name).await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(netlink(format!("setting {name} up")))?;
        for range in ranges {
            let (address, prefix) = match range.network() {
                base @ IpAddr::V4(_) => (base, 32),
                IpAddr::V6(_) => (IpAddr::V6(link_local(mac_address(own))), 64),
            };
            add_address(&handle, index, address, prefix)
                .await
                .map_err(netlink(format!("giving {name} its address")))?;
        }
        Ok(Overlay { handle, index })
    }

    /// Adds the route, neighbour and forwarding entries for another node's pod CIDR.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn add_node_route(&self, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
        let hardware = mac_address(node);
        let far_end = match range.network() {
            base @ IpAddr::V4(_) => base,
            IpAddr::V6(_) => IpAddr::V6(link_local(hardware)),
        };
        let what = format!("leading to the pods of {node}");
        // NTF_SELF: in the VXLAN device's own forwarding database, not in that of a bridge.
        let forwarding = self.handle.neighbours().add_bridge(self.index, &hardware).destination(node);
        let forwarding = forwarding.flags(NeighbourFlags::Own);
        forwarding.replace().execute().await.map_err(netlink(what.clone()))?;
        let neighbour = self.handle.neighbours().add(self.index, far_end).link_layer_address(&hardware);
        neighbour.replace().execute().await.map_err(netlink(what.clone()))?;
        let route = route_to(range.network(), range.prefix_len()).gateway(far_end).map_err(|e| invalid(&what, e))?;
        let mut route = route.output_interface(self.index).build();
        // onlink: the next hop isn't on a connected network.
        route.header.flags |= RouteFlags::Onlink;
        self.handle.route().add(route).replace().execute().await.map_err(netlink(what))
    }
}

async fn mtu(handle: &Handle, index: u32) -> Result<u32, NetworkError> {
    let link = handle.link().get().match_index(index).execute().try_next().await.map_err(netlink("reading the MTU"))?;
    let attributes = link.map(|l| l.attributes).unwrap_or_default();
    Ok(attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None }).unwrap_or(1500))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn each_node_has_a_hardware_address_of_its_own() {
        assert_eq!(mac_address(Ipv4Addr::new(192, 0, 2, 7).into()), [0x0a, 0x58, 192, 0, 2, 7]);
        // Neither a group's nor one that a maker gave.
        assert_eq!(mac_address(Ipv4Addr::BROADCAST.into())[0] & 0b11, 0b10);
        let six = |text: &str| mac_address(text.parse().unwrap());
        assert_ne!(six("fd00::1"), six("fd00::2"));
        assert_ne!(six("fd00::1:0:0:1"), six("fd00::2:0:0:2"));
        assert_eq!(link_local([0x0a, 0x58, 192, 0, 2, 7]).to_string(), "fe80::858:c0ff:fe00:207");
    }
}
