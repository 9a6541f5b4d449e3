//! Interfaces, addresses and routes, by netlink (rtnetlink(7)).
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use futures::TryStreamExt as _;
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what} failed: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("{what} failed")]
    System { what: String, source: std::io::Error },
    #[error("there is no interface {0}")]
    NoLink(String),
    #[error("only IPv4 is served by this version, {0} isn't")]
    Family(IpAddr),
}

pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::Netlink { what, source }
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let what = what.into();
    |source| NetworkError::System { what, source }
}

pub(crate) fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(system("opening netlink"))?;
    tokio::spawn(connection);
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

pub(crate) fn v4(address: IpAddr) -> Result<Ipv4Addr, NetworkError> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => Err(NetworkError::Family(address)),
    }
}

/// The node's bridge.
#[derive(Clone)]
pub struct Bridge {
    name: String,
    handle: Handle,
    gateway: IpAddr,
}

impl Bridge {
    /// Makes the bridge if it isn't there, and gives it the gateway's address of the node's range.
    ///
    /// # Errors
    /// Those of the kernel; making interfaces needs CAP_NET_ADMIN.
    pub async fn ensure(name: &str, gateway: IpAddr, range: IpNet) -> Result<Self, NetworkError> {
        let handle = connect()?;
        let add = handle.link().add(LinkBridge::new(name).build()).execute().await;
        or_exists(add).map_err(netlink(format!("making the bridge {name}")))?;
        let bridge = Bridge { name: name.into(), handle, gateway };
        let index = bridge.index().await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        bridge.handle.link().set(up).execute().await.map_err(netlink(format!("setting {name} up")))?;
        bridge.add_address(gateway, range.prefix_len()).await?;
        // Pods that reach each other through the gateway must not be told of a shorter way.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0");
        let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0");
        Ok(bridge)
    }

    async fn index(&self) -> Result<u32, NetworkError> {
        index(&self.handle, &self.name).await
    }

    /// Gives the bridge a further address, as for the DNS server.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let index = self.index().await?;
        let added = self.handle.address().add(index, address, prefix).execute().await;
        or_exists(added).map_err(netlink(format!("giving {} the address {address}", self.name)))
    }

    /// Connects a pod's network namespace: `eth0` inside, a port of the bridge outside.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn attach(&self, namespace: &Path, port: &str, address: IpAddr) -> Result<(), NetworkError> {
        let file = std::fs::File::open(namespace).map_err(system(format!("opening {}", namespace.display())))?;
        let _ = self.detach(port).await;
        // One request for all: both ends get their names and places as they are made. An end that is moved to another
        // namespace later costs two grace periods of the kernel, for which every other pod's network waits.
        let mut add = LinkVeth::new(port, "eth0").controller(self.index().await?).up().build();
        for attribute in &mut add.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else { continue };
            for info in infos {
                if let LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = info {
                    peer.attributes.push(LinkAttribute::NetNsFd(file.as_raw_fd()));
                }
            }
        }
        self.handle.link().add(add).execute().await.map_err(netlink(format!("connecting {port} to the bridge")))?;
        // A pod may be chosen by a service that it asks. Where br_netfilter is on, the translation happens inside the
        // bridge, which sends a frame back to where it came from only if the port says so.
        let mut hairpin = LinkBridgePort::new(0).name(port).hairpin(true).build();
        hairpin.header.interface_family = AddressFamily::Unspec;
        self.handle
            .link()
            .set_port(hairpin)
            .execute()
            .await
            .map_err(netlink(format!("letting {port} reach itself")))?;
        let gateway = v4(self.gateway)?;
        let configured = tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || configure_inside(&file, v4(address)?, gateway)).join()
        });
        match configured.await {
            Ok(Ok(result)) => result,
            _ => Err(system("configuring the pod's interface")(std::io::Error::other("the thread died"))),
        }
    }

    /// Removes a pod's interface, if it is there.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn detach(&self, port: &str) -> Result<(), NetworkError> {
        match index(&self.handle, port).await {
            Ok(index) => {
                let deleted = self.handle.link().del(index).execute().await;
                deleted.map_err(netlink(format!("removing the interface {port}")))
            }
            Err(_) => Ok(()),
        }
    }

    /// The bridge's ports.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn ports(&self) -> Result<Vec<String>, NetworkError> {
        let bridge = self.index().await?;
        let links: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(netlink("listing interfaces"))?;
        let mut names = Vec::new();
        for link in links {
            let on_bridge = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == bridge));
            let name = link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            names.extend(name.filter(|_| on_bridge));
        }
        Ok(names)
    }

    /// Sends what is for another node's pods to that node.
    ///
    /// # Errors
    /// When the node isn't on a segment of ours.
    pub async fn route(&self, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4(range.network())?, range.prefix_len())
            .gateway(v4(node)?)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(netlink(format!("adding the route to {range} by {node}")))
    }

    /// Leads the addresses of services to the bridge, where they are translated before they get anywhere.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn route_services(&self, range: IpNet) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4(range.network())?, range.prefix_len())
            .output_interface(self.index().await?)
            .scope(RouteScope::Link)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(netlink(format!("adding the route to the services {range}")))
    }

    /// Removes the route to a node that is gone.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn unroute(&self, range: IpNet) -> Result<(), NetworkError> {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4(range.network())?, range.prefix_len()).build();
        self.handle.route().del(route).execute().await.map_err(netlink(format!("removing the route to {range}")))
    }
}

fn configure_inside(namespace: &std::fs::File, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), NetworkError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| system("entering the pod's network")(e.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(system("starting a runtime"))?.block_on(async {
        let handle = connect()?;
        for name in ["lo", "eth0"] {
            let up = LinkUnspec::new_with_index(index(&handle, name).await?).up().build();
            handle.link().set(up).execute().await.map_err(netlink(format!("setting {name} up in the pod")))?;
        }
        let eth0 = index(&handle, "eth0").await?;
        let added = handle.address().add(eth0, address.into(), 32).execute().await;
        or_exists(added).map_err(netlink("giving the pod its address"))?;
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(eth0)
            .scope(RouteScope::Link)
            .build();
        handle
            .route()
            .add(to_gateway)
            .replace()
            .execute()
            .await
            .map_err(netlink("adding the pod's route to its gateway"))?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(eth0).build();
        handle.route().add(default).replace().execute().await.map_err(netlink("adding the pod's default route"))
    })
}

/// The address of this machine: that of the interface of the default route, else of any that isn't loopback.
///
/// # Errors
/// When there is none.
pub async fn default_address() -> Result<IpAddr, NetworkError> {
    let handle = connect()?;
    let mut by_route = None;
    let routes = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut routes = handle.route().get(routes).execute();
    while let Ok(Some(route)) = routes.try_next().await {
        let has_destination = route.attributes.iter().any(|a| matches!(a, RouteAttribute::Destination(_)));
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) if !has_destination => {
                    return Ok((*source).into());
                }
                RouteAttribute::Oif(index) if !has_destination => by_route = by_route.or(Some(*index)),
                _ => {}
            }
        }
    }
    let mut addresses = handle.address().get().execute();
    let mut any = None;
    while let Ok(Some(address)) = addresses.try_next().await {
        if address.header.family != AddressFamily::Inet {
            continue;
        }
        let local = address.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) if !ip.is_loopback() => Some(*ip),
            _ => None,
        });
        if let Some(ip) = local {
            if Some(address.header.index) == by_route {
                return Ok(ip);
            }
            any = any.or(Some(ip));
        }
    }
    any.ok_or_else(|| NetworkError::NoLink("with an address that isn't loopback; --node-ip names one".into()))
}

/// Lets this machine pass packets on, as pods need it.
///
/// # Errors
/// When /proc can't be written.
pub fn enable_forwarding() -> Result<(), NetworkError> {
    let write = |path: &str, value: &str| std::fs::write(path, value).map_err(system(format!("writing {path}")));
    write("/proc/sys/net/ipv4/ip_forward", "1")
}
