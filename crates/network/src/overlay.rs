//! VXLAN (RFC 7348) to nodes that share no segment with this one.
//!
//! Nothing is learnt and nothing is asked for: who is where follows from the Node objects. A node's end of the overlay
//! has a hardware address made of the node's address, and the first address of the node's range.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::RouteFlags;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use crate::link::{NetworkError, connect, index, netlink, or_exists, v4};

/// The port that IANA gave VXLAN is 4789; Linux and the peers of this program use this one.
const PORT: u16 = 8472;
const NETWORK: u32 = 1;
/// Outer Ethernet, IPv4, UDP and VXLAN headers, in bytes.
const OVERHEAD: u32 = 50;

/// This node's end.
#[derive(Clone)]
pub struct Overlay {
    handle: Handle,
    index: u32,
}

/// The hardware address of a node's end: locally administered, and the node's address.
fn hardware(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The interface that has an address, and the network that it is in there.
async fn segments(handle: &Handle) -> Result<Vec<(u32, Ipv4Net)>, NetworkError> {
    let all: Vec<_> = handle.address().get().execute().try_collect().await.map_err(netlink("listing addresses"))?;
    let segment = |message: &rtnetlink::packet_route::address::AddressMessage| {
        let address = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        })?;
        let network = Ipv4Net::new(address, message.header.prefix_len).ok()?;
        (message.header.family == AddressFamily::Inet).then_some((message.header.index, network))
    };
    Ok(all.iter().filter_map(segment).collect())
}

/// Whether `node` is reached without a router.
///
/// # Errors
/// Those of the kernel.
pub async fn is_neighbour(node: IpAddr) -> Result<bool, NetworkError> {
    let node = v4(node)?;
    let found = segments(&connect()?).await?;
    Ok(found.iter().any(|(_, network)| network.prefix_len() < 32 && network.contains(&node)))
}

impl Overlay {
    /// Makes this node's end if it isn't there. `own` is the node's address, `range` that of its pods.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn ensure(name: &str, own: IpAddr, range: IpNet) -> Result<Self, NetworkError> {
        let (handle, own) = (connect()?, v4(own)?);
        let found = segments(&handle).await?;
        let below = found.iter().find(|(_, network)| network.addr() == own).map(|(index, _)| *index);
        let mtu = match below {
            Some(index) => mtu(&handle, index).await?,
            None => 1500,
        };
        let mut link = LinkVxlan::new(name, NETWORK).local(own).port(PORT).learning(false);
        if let Some(index) = below {
            link = link.dev(index);
        }
        let link = link.address(hardware(own).to_vec()).mtu(mtu.saturating_sub(OVERHEAD)).build();
        or_exists(handle.link().add(link).execute().await).map_err(netlink(format!("making the overlay {name}")))?;
        let index = index(&handle, name).await?;
        let added = handle.address().add(index, range.network(), 32).execute().await;
        or_exists(added).map_err(netlink(format!("giving {name} its address")))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(netlink(format!("setting {name} up")))?;
        Ok(Overlay { handle, index })
    }

    /// Leads to the pods of another node.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn lead(&self, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
        let (far_end, node) = (v4(range.network())?, v4(node)?);
        let hardware = hardware(node);
        let what = format!("leading to the pods of {node}");
        // In the overlay's own table, not in that of a bridge that it might be a port of.
        let forwarding = self.handle.neighbours().add_bridge(self.index, &hardware).destination(node.into());
        let forwarding = forwarding.flags(NeighbourFlags::Own);
        forwarding.replace().execute().await.map_err(netlink(what.clone()))?;
        let neighbour = self.handle.neighbours().add(self.index, far_end.into()).link_layer_address(&hardware);
        neighbour.replace().execute().await.map_err(netlink(what.clone()))?;
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(far_end, range.prefix_len())
            .gateway(far_end)
            .output_interface(self.index)
            .build();
        // The far end isn't in a network of ours; it is there all the same.
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

    #[test]
    fn each_node_has_a_hardware_address_of_its_own() {
        assert_eq!(hardware(Ipv4Addr::new(192, 0, 2, 7)), [0x0a, 0x58, 192, 0, 2, 7]);
        // Neither a group's nor one that a maker gave.
        assert_eq!(hardware(Ipv4Addr::BROADCAST)[0] & 0b11, 0b10);
    }
}
