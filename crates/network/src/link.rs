//! The node's bridge, its addresses and routes (rtnetlink(7)).

use std::net::IpAddr;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use parking_lot::RwLock;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, MulticastGroup, RouteMessageBuilder};

use crate::error::{NetworkError, invalid, netlink, system};

pub(crate) fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(system("opening netlink"))?;
    tasks::spawn("netlink", connection);
    Ok(handle)
}

pub(crate) async fn index(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    match found {
        Ok(Some(link)) => Ok(link.header.index),
        _ => Err(NetworkError::NoLink(name.into())),
    }
}

/// Treats EEXIST as success.
pub(crate) fn ignore_exists(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}

/// The MAC address of an interface, derived from its IP address: locally administered; an IPv6 address is folded.
pub(crate) fn mac_address(address: IpAddr) -> [u8; 6] {
    let folded = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let words = v6.segments().chunks(2).fold(0u32, |sum, pair| match pair {
                [high, low] => sum.rotate_left(5) ^ (u32::from(*high) << 16 | u32::from(*low)),
                _ => sum,
            });
            words.to_be_bytes()
        }
    };
    let [a, b, c, d] = folded;
    [0x0a, 0x58, a, b, c, d]
}

/// The prefix length of a single address: 32 or 128.
pub(crate) fn host_prefix_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The `rtm_protocol` of our routes (rtnetlink(7)): unused by other programs, so that ours are found again after a crash.
pub const ROUTE_PROTOCOL: u8 = 116;
const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

/// A route request; the caller adds the gateway, if the destination isn't on the link.
pub(crate) fn route_to(destination: IpAddr, prefix: u8) -> RouteMessageBuilder<IpAddr> {
    // Can't fail: the prefix length is one of the address' family.
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(destination, prefix).unwrap_or_default().protocol(PROTOCOL)
}

/// The destination of a route of the main table that has a gateway.
fn gateway_route_destination(route: &RouteMessage) -> Option<IpNet> {
    let (mut to, mut by) = (None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(IpAddr::from(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = Some(IpAddr::from(*ip)),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => by = true,
            _ => {}
        }
    }
    let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    IpNet::new(to.filter(|_| by && main)?, route.header.destination_prefix_length).ok()
}

/// Adds an address to an interface without duplicate address detection (`IFA_F_NODAD`), as no other machine can have it.
pub(crate) async fn add_address(
    handle: &Handle,
    link: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(link, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    ignore_exists(request.execute().await)
}

/// The node's interface with the pods' gateway addresses and the address of the cluster's DNS; cluster IPs are routed to it. It is a bridge
/// because pods of older agents are its ports; today's pods have routes of their own (`veth.rs`).
#[derive(Clone)]
pub struct Bridge {
    name: String,
    pub(crate) handle: Handle,
    /// The gateway of each family; shared by clones.
    gateways: Arc<RwLock<Vec<IpAddr>>>,
}

/// The gateway of a pod CIDR: its first address.
pub fn gateway(range: IpNet) -> IpAddr {
    apimachinery::addresses::nth(range, 1)
}

impl Bridge {
    /// Creates the bridge if it doesn't exist, and adds the gateways of the node's pod CIDRs.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel; creating interfaces needs CAP_NET_ADMIN.
    pub async fn ensure(name: &str, ranges: &[IpNet]) -> Result<Self, NetworkError> {
        let handle = connect()?;
        let add = handle.link().add(LinkBridge::new(name).build()).execute().await;
        ignore_exists(add).map_err(netlink(format!("making the bridge {name}")))?;
        let gateways: Vec<IpAddr> = ranges.iter().map(|range| gateway(*range)).collect();
        let first = gateways.first().copied();
        let bridge = Bridge { name: name.into(), handle, gateways: Arc::new(RwLock::new(gateways)) };
        let index = bridge.index().await?;
        let mut up = LinkUnspec::new_with_index(index).up();
        // A fixed MAC address: pods of older agents have it in their neighbour tables.
        if let Some(first) = first {
            up = up.address(mac_address(first).to_vec());
        }
        bridge.handle.link().set(up.build()).execute().await.map_err(netlink(format!("setting {name} up")))?;
        for range in ranges {
            bridge.add_address(gateway(*range), range.prefix_len()).await?;
        }
        // No ICMP redirects for pods that reach each other through the gateway, and no router advertisements from pods.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0");
        let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0");
        Ok(bridge)
    }

    pub(crate) async fn index(&self) -> Result<u32, NetworkError> {
        index(&self.handle, &self.name).await
    }

    /// The gateways of pods, one of each family.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.gateways.read().clone()
    }

    /// Changes the pod CIDRs: adds their gateways.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn change_ranges(&self, ranges: &[IpNet]) -> Result<(), NetworkError> {
        for range in ranges {
            self.add_address(gateway(*range), range.prefix_len()).await?;
        }
        *self.gateways.write() = ranges.iter().map(|range| gateway(*range)).collect();
        Ok(())
    }

    /// Adds another address to the bridge, like that of the cluster's DNS.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let index = self.index().await?;
        let given = add_address(&self.handle, index, address, prefix).await;
        given.map_err(netlink(format!("giving {} the address {address}", self.name)))
    }

    /// Removes all addresses of the bridge but `wanted`, such as those of a former pod CIDR.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn remove_other_addresses(&self, wanted: &[IpAddr]) -> Result<(), NetworkError> {
        let present = self.handle.address().get().set_link_index_filter(self.index().await?).execute();
        let present: Vec<_> =
            present.try_collect().await.map_err(netlink(format!("listing addresses of {}", self.name)))?;
        for message in present {
            let old = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(IpAddr::V6(ip)) if ip.is_unicast_link_local() => None,
                AddressAttribute::Address(ip) if !wanted.contains(ip) => Some(*ip),
                _ => None,
            });
            if let Some(old) = old {
                let removed = self.handle.address().del(message).execute().await;
                removed.map_err(netlink(format!("taking the address {old} from {}", self.name)))?;
            }
        }
        Ok(())
    }

    /// Whether the bridge exists.
    pub async fn exists(&self) -> bool {
        self.index().await.is_ok()
    }

    /// Adds the route to another node's pod CIDR, with the node as gateway.
    ///
    /// # Errors
    /// When the node isn't on a directly connected network, and other errors of the kernel.
    pub async fn add_node_route(&self, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
        let what = format!("adding the route to {range} by {node}");
        let route = route_to(range.network(), range.prefix_len()).gateway(node).map_err(|e| invalid(&what, e))?.build();
        self.handle.route().add(route).replace().execute().await.map_err(netlink(what))
    }

    /// Routes the service CIDR to the bridge. Its packets are translated (dnat) before they are routed.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn add_service_route(&self, range: IpNet) -> Result<(), NetworkError> {
        let route = route_to(range.network(), range.prefix_len())
            .output_interface(self.index().await?)
            .scope(RouteScope::Link)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(netlink(format!("adding the route to the services {range}")))
    }

    /// Removes stale routes with a gateway to ranges within `cluster`: those for which `wanted` is false, like routes to removed nodes, also
    /// of earlier agents and clusters. Returns their destinations.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn remove_stale_routes(
        &self,
        cluster: &[IpNet],
        wanted: impl Fn(IpNet) -> bool,
    ) -> Result<Vec<IpNet>, NetworkError> {
        let mut removed = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessageBuilder::<IpAddr>::new().build();
            filter.header.address_family = family;
            let routes: Vec<RouteMessage> =
                self.handle.route().get(filter).execute().try_collect().await.map_err(netlink("listing routes"))?;
            for route in routes {
                let Some(to) = gateway_route_destination(&route) else { continue };
                // Routes of older agents have no protocol of their own; within the cluster's ranges they are taken for ours.
                let protocol = route.header.protocol;
                let within = cluster.iter().any(|range| range.contains(&to));
                let is_ours = protocol == PROTOCOL || (protocol == RouteProtocol::Static && within);
                if is_ours && !wanted(to) {
                    let deleted = self.handle.route().del(route).execute().await;
                    deleted.map_err(netlink(format!("removing the route to {to}")))?;
                    removed.push(to);
                }
            }
        }
        Ok(removed)
    }
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// A stream of the names of removed interfaces.
pub struct RemovedLinks(Option<BoxStream<'static, String>>);

impl RemovedLinks {
    /// Starts listening.
    pub fn listen() -> Self {
        let (connection, handle, messages) = match rtnetlink::new_multicast_connection(&[MulticastGroup::Link]) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "failed to watch network interfaces; a removed one is repaired by the next resync");
                return RemovedLinks(None);
            }
        };
        tasks::spawn("netlink", connection);
        RemovedLinks(Some(Box::pin(messages.filter_map(move |(message, _)| {
            // The connection is closed with its last handle.
            let _ = &handle;
            std::future::ready(match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => name_of(&link).map(String::from),
                _ => None,
            })
        }))))
    }

    /// Waits for the next removal.
    pub async fn next(&mut self) -> String {
        let next = match &mut self.0 {
            Some(names) => names.next().await,
            None => None,
        };
        match next {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}
