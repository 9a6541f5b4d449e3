//! The node's own interface, addresses and routes, by netlink (rtnetlink(7)).
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

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what} failed: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("{what} failed")]
    System { what: String, source: std::io::Error },
    #[error("there is no interface {0}")]
    NoLink(String),
    #[error(
        "the cluster has IPv6 addresses and this machine has IPv6 switched off: set the sysctl net.ipv6.conf.all.disable_ipv6 to 0, or leave the IPv6 range out of --cluster-cidr and --service-cidr"
    )]
    NoIpv6,
}

pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::Netlink { what, source }
}

pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::System { what, source }
}

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

/// EEXIST is what we want when the thing is there already.
pub(crate) fn or_exists(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}

/// The hardware address of an interface that is made of an address: locally administered, and the address, folded if it is a long one.
pub(crate) fn hardware(address: IpAddr) -> [u8; 6] {
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

/// The prefix of a single address.
pub(crate) fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Who wrote a route (rtnetlink(7)): a number that no other program is known to use, so that ours are found again after any death.
pub const ROUTE_PROTOCOL: u8 = 116;
const PROTOCOL: RouteProtocol = RouteProtocol::Other(ROUTE_PROTOCOL);

/// The request for a route; the caller says the way, if the destination isn't on a link.
pub(crate) fn route_to(destination: IpAddr, prefix: u8) -> RouteMessageBuilder<IpAddr> {
    // Neither fails: the prefix is one of the address' family.
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(destination, prefix).unwrap_or_default().protocol(PROTOCOL)
}

/// Where a route of the main table leads, if another machine is on the way.
fn by_another_machine(route: &RouteMessage) -> Option<IpNet> {
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

/// Gives an interface an address that may be used at once: nobody else can have it, so nobody is asked.
pub(crate) async fn give(handle: &Handle, link: u32, address: IpAddr, prefix: u8) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(link, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    or_exists(request.execute().await)
}

/// The node's own interface among its pods': it has the pods' gateways and the address of the cluster's DNS, and services are led to it. It is
/// called a bridge and is one, as pods of older agents were its ports; today's have a way of their own each (`port.rs`).
#[derive(Clone)]
pub struct Bridge {
    name: String,
    pub(crate) handle: Handle,
    /// One of each family that pods have; the same for all copies.
    gateways: Arc<RwLock<Vec<IpAddr>>>,
}

/// The address of a range that is the node's own: the first.
pub fn gateway(range: IpNet) -> IpAddr {
    apimachinery::addresses::nth(range, 1)
}

impl Bridge {
    /// Makes the bridge if it isn't there, and gives it the gateways' addresses of the node's ranges.
    ///
    /// # Errors
    /// Those of the kernel; making interfaces needs CAP_NET_ADMIN.
    pub async fn ensure(name: &str, ranges: &[IpNet]) -> Result<Self, NetworkError> {
        let handle = connect()?;
        let add = handle.link().add(LinkBridge::new(name).build()).execute().await;
        or_exists(add).map_err(netlink(format!("making the bridge {name}")))?;
        let gateways: Vec<IpAddr> = ranges.iter().map(|range| gateway(*range)).collect();
        let first = gateways.first().copied();
        let bridge = Bridge { name: name.into(), handle, gateways: Arc::new(RwLock::new(gateways)) };
        let index = bridge.index().await?;
        let mut up = LinkUnspec::new_with_index(index).up();
        // Left to itself it has another one each time that it is made. Pods of older agents have learnt it.
        if let Some(first) = first {
            up = up.address(hardware(first).to_vec());
        }
        bridge.handle.link().set(up.build()).execute().await.map_err(netlink(format!("setting {name} up")))?;
        for range in ranges {
            bridge.add_address(gateway(*range), range.prefix_len()).await?;
        }
        // Pods that reach each other through the gateway must not be told of a shorter way, and no pod is a router.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0");
        let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0");
        Ok(bridge)
    }

    pub(crate) async fn index(&self) -> Result<u32, NetworkError> {
        index(&self.handle, &self.name).await
    }

    /// The gateways of the node's pods.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.gateways.read().clone()
    }

    /// From now on pods have the gateways of these ranges.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn change_ranges(&self, ranges: &[IpNet]) -> Result<(), NetworkError> {
        for range in ranges {
            self.add_address(gateway(*range), range.prefix_len()).await?;
        }
        *self.gateways.write() = ranges.iter().map(|range| gateway(*range)).collect();
        Ok(())
    }

    /// Gives the bridge a further address, as for the DNS server.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let index = self.index().await?;
        let given = give(&self.handle, index, address, prefix).await;
        given.map_err(netlink(format!("giving {} the address {address}", self.name)))
    }

    /// Takes from the bridge those addresses that aren't `wanted`, as those of a range that the node had before.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn keep_only(&self, wanted: &[IpAddr]) -> Result<(), NetworkError> {
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

    pub async fn is_there(&self) -> bool {
        self.index().await.is_ok()
    }

    /// Sends what is for another node's pods to that node.
    ///
    /// # Errors
    /// When the node isn't on a segment of ours.
    pub async fn route(&self, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
        let what = format!("adding the route to {range} by {node}");
        let route = route_to(range.network(), range.prefix_len()).gateway(node).map_err(|e| invalid(&what, e))?.build();
        self.handle.route().add(route).replace().execute().await.map_err(netlink(what))
    }

    /// Leads the addresses of services to the bridge, where they are translated before they get anywhere.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn route_services(&self, range: IpNet) -> Result<(), NetworkError> {
        let route = route_to(range.network(), range.prefix_len())
            .output_interface(self.index().await?)
            .scope(RouteScope::Link)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(netlink(format!("adding the route to the services {range}")))
    }

    /// Removes the routes by other machines to ranges within `cluster` for which `wanted` doesn't hold: to nodes that are gone, also such as
    /// another agent wrote or one of another cluster. Returns where they led.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn sweep_routes(
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
                let Some(to) = by_another_machine(&route) else { continue };
                // Older agents' routes are no different from those that people write; within the cluster's own ranges they are ours.
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

/// The names of interfaces that go.
pub struct Removals(Option<BoxStream<'static, String>>);

impl Removals {
    /// From now on.
    pub fn listen() -> Self {
        let (connection, handle, messages) = match rtnetlink::new_multicast_connection(&[MulticastGroup::Link]) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "failed to watch network interfaces; a removed one is repaired by the next resync");
                return Removals(None);
            }
        };
        tasks::spawn("netlink", connection);
        Removals(Some(Box::pin(messages.filter_map(move |(message, _)| {
            // The connection ends with its last handle.
            let _ = &handle;
            std::future::ready(match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => name_of(&link).map(String::from),
                _ => None,
            })
        }))))
    }

    /// Waits for the next one.
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

/// What the route library refuses before the kernel is asked.
pub(crate) fn invalid(what: &str, why: impl std::fmt::Display) -> NetworkError {
    NetworkError::System { what: what.into(), source: std::io::Error::other(why.to_string()) }
}

/// The addresses of this machine, at most one of each family, IPv4 first: that of the interface of the default route, else
/// of any that isn't loopback.
///
/// # Errors
/// When there is none.
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

/// Whether packets from 127.0.0.0/8 may leave by other interfaces, and answers come back to it (`route_localnet`, ip-sysctl of Linux):
/// so programs of this machine come to pods by 127.0.0.1. Others must be kept from such addresses by rules then (CVE-2020-8558).
///
/// # Errors
/// When /proc can't be written.
pub fn route_loopback(route: bool) -> Result<(), NetworkError> {
    let path = "/proc/sys/net/ipv4/conf/all/route_localnet";
    std::fs::write(path, if route { "1" } else { "0" }).map_err(system(format!("writing {path}")))
}

/// Lets this machine pass packets on, as pods need it.
///
/// # Errors
/// When /proc can't be written, or IPv6 is wanted and switched off.
pub fn enable_forwarding(ipv6: bool) -> Result<(), NetworkError> {
    let write = |path: &str, value: &str| std::fs::write(path, value).map_err(system(format!("writing {path}")));
    write("/proc/sys/net/ipv4/ip_forward", "1")?;
    if !ipv6 {
        return Ok(());
    }
    let of_all = |name: &str| format!("/proc/sys/net/ipv6/conf/all/{name}");
    if bounded::text(of_all("disable_ipv6"), bounded::KERNEL).is_ok_and(|off| off.trim() != "0") {
        return Err(NetworkError::NoIpv6);
    }
    // Who passes packets on no longer listens to routers, unless told to: the machine would lose its own way out.
    for link in std::fs::read_dir("/proc/sys/net/ipv6/conf").map_err(|_| NetworkError::NoIpv6)?.flatten() {
        let path = link.path().join("accept_ra");
        if bounded::text(&path, bounded::KERNEL).is_ok_and(|accepts| accepts.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
    write(&of_all("forwarding"), "1")
}
