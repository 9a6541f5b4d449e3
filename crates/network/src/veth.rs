//! A pod's connection to its node: a veth pair (veth(4)) and routes on both sides. Pods are connected with each other by the node's IP layer
//! alone: no frame of one reaches another, and the node checks a pod's source address by the route to it (rules of `proxy`). So it doesn't
//! matter whether frames of bridges are filtered (`br_netfilter`).
//!
//! ARP and neighbour discovery aren't used either: each end has a permanent entry for the other, so that no reply can be forged.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use futures::TryStreamExt as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::error::{NetworkError, invalid, netlink, system};
use crate::link::{Bridge, add_address, connect, host_prefix_length, index, mac_address, route_to};

/// Prefix of the names of the node's ends.
pub const VETH_PREFIX: &str = "tp";

/// A pod's addresses, each with its gateway, and the MAC addresses of both ends.
struct VethConfig {
    places: Vec<(IpAddr, IpAddr)>,
    of_node: [u8; 6],
    of_pod: [u8; 6],
}

impl Bridge {
    fn ends(&self, addresses: &[IpAddr]) -> Result<VethConfig, NetworkError> {
        let gateways = self.gateways();
        let gateway_of = |a: &IpAddr| gateways.iter().find(|g| g.is_ipv4() == a.is_ipv4()).map(|g| (*a, *g));
        let places: Vec<(IpAddr, IpAddr)> = addresses.iter().filter_map(gateway_of).collect();
        let (Some((address, _)), Some(gateway)) = (places.first(), gateways.first()) else {
            return Err(invalid("connecting a pod", "it has no address of this node's ranges"));
        };
        let (of_node, of_pod) = (mac_address(*gateway), mac_address(*address));
        Ok(VethConfig { places, of_node, of_pod })
    }

    /// Connects a pod's network namespace: `eth0` inside, `port` outside.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn attach(&self, namespace: &Path, port: &str, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let file = std::fs::File::open(namespace).map_err(system(format!("opening {}", namespace.display())))?;
        let ends = self.ends(addresses)?;
        let _ = self.detach(port).await;
        // One request creates both ends with their names and namespaces. Moving an end to another namespace later costs two grace periods
        // of the kernel (RCU), for which the network setup of every other pod waits.
        let mut add = LinkVeth::new(port, "eth0").address(ends.of_node.to_vec()).up().build();
        for attribute in &mut add.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else { continue };
            for info in infos {
                if let LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = info {
                    peer.attributes.push(LinkAttribute::NetNsFd(file.as_raw_fd()));
                    peer.attributes.push(LinkAttribute::Address(ends.of_pod.to_vec()));
                }
            }
        }
        self.handle.link().add(add).execute().await.map_err(netlink(format!("making the interface {port}")))?;
        self.join(file, port, ends).await
    }

    /// Converts the connection of a pod of an older agent, which made it a bridge port, into what [`attach`](Self::attach) makes.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn reattach(&self, namespace: &Path, port: &str, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let ends = self.ends(addresses)?;
        if !has_bridge(&self.link(port).await?) {
            return self.add_pod_routes(port, addresses).await;
        }
        let file = std::fs::File::open(namespace).map_err(system(format!("opening {}", namespace.display())))?;
        let port_index = index(&self.handle, port).await?;
        let alone = LinkUnspec::new_with_index(port_index).nocontroller().address(ends.of_node.to_vec()).up().build();
        let set = self.handle.link().set(alone).execute().await;
        set.map_err(netlink(format!("taking {port} from the bridge")))?;
        self.join(file, port, ends).await
    }

    async fn join(&self, file: std::fs::File, port: &str, ends: VethConfig) -> Result<(), NetworkError> {
        let addresses: Vec<IpAddr> = ends.places.iter().map(|(address, _)| *address).collect();
        self.add_pod_routes(port, &addresses).await?;
        let configured = tokio::task::spawn_blocking(move || {
            Some(tasks::thread("pod-interface", move || configure_inside(&file, &ends)).ok()?.join())
        });
        match configured.await {
            Ok(Some(Ok(result))) => result,
            _ => Err(system("configuring the pod's interface")(std::io::Error::other("the thread died"))),
        }
    }

    /// Adds the node's routes to a pod's addresses.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn add_pod_routes(&self, port: &str, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let ends = self.ends(addresses)?;
        let link = self.link(port).await?;
        // A pod of an older agent that is still a bridge port is reached through the bridge.
        if has_bridge(&link) {
            return Ok(());
        }
        let port_index = link.header.index;
        // No ICMP redirects for a pod that reaches itself through a service, and no router advertisements from pods.
        for setting in ["ipv4/conf/{}/send_redirects", "ipv4/conf/{}/accept_redirects", "ipv6/conf/{}/accept_ra"] {
            let _ = std::fs::write(format!("/proc/sys/net/{}", setting.replace("{}", port)), "0");
        }
        for (address, gateway) in &ends.places {
            let what = format!("leading to {address} by {port}");
            let neighbour = self.handle.neighbours().add(port_index, *address).link_layer_address(&ends.of_pod);
            neighbour.replace().execute().await.map_err(netlink(what.clone()))?;
            // The node's own packets to its pods have the gateway's address as their source.
            let route =
                route_to(*address, host_prefix_length(*address)).output_interface(port_index).pref_source(*gateway);
            let mut route = route.map_err(|e| invalid(&what, e))?;
            if address.is_ipv4() {
                route = route.scope(RouteScope::Link);
            }
            self.handle.route().add(route.build()).replace().execute().await.map_err(netlink(what))?;
        }
        Ok(())
    }

    async fn link(&self, name: &str) -> Result<LinkMessage, NetworkError> {
        let found = self.handle.link().get().match_name(name.to_string()).execute().try_next().await;
        found.ok().flatten().ok_or_else(|| NetworkError::NoLink(name.into()))
    }

    /// Removes a pod's interface, if it exists.
    ///
    /// # Errors
    /// [`NetworkError`] of the kernel (rtnetlink(7)).
    pub async fn detach(&self, port: &str) -> Result<(), NetworkError> {
        match index(&self.handle, port).await {
            Ok(index) => {
                let deleted = self.handle.link().del(index).execute().await;
                deleted.map_err(netlink(format!("removing the interface {port}")))
            }
            Err(_) => Ok(()),
        }
    }
}

fn has_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(index) if *index != 0))
}

/// Adds a pod's addresses and the routes to their gateways, inside its namespace.
fn configure_inside(namespace: &std::fs::File, ends: &VethConfig) -> Result<(), NetworkError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| system("entering the pod's network")(e.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(system("starting a runtime"))?.block_on(async {
        let handle = connect()?;
        let up = LinkUnspec::new_with_index(index(&handle, "lo").await?).up().build();
        handle.link().set(up).execute().await.map_err(netlink("setting lo up in the pod"))?;
        let eth0 = index(&handle, "eth0").await?;
        let up = LinkUnspec::new_with_index(eth0).address(ends.of_pod.to_vec()).up().build();
        handle.link().set(up).execute().await.map_err(netlink("setting eth0 up in the pod"))?;
        for (address, gateway) in &ends.places {
            let given = add_address(&handle, eth0, *address, host_prefix_length(*address)).await;
            given.map_err(netlink(format!("giving the pod its address {address}")))?;
            let neighbour = handle.neighbours().add(eth0, *gateway).link_layer_address(&ends.of_node);
            neighbour.replace().execute().await.map_err(netlink("telling the pod who its gateway is"))?;
            let to_gateway =
                route_to(*gateway, host_prefix_length(*gateway)).output_interface(eth0).scope(RouteScope::Link).build();
            let added = handle.route().add(to_gateway).replace().execute().await;
            added.map_err(netlink("adding the pod's route to its gateway"))?;
            let what = "adding the pod's default route";
            let everywhere: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let default = route_to(everywhere, 0).gateway(*gateway).map_err(|e| invalid(what, e))?;
            let added = handle.route().add(default.output_interface(eth0).build()).replace().execute().await;
            added.map_err(netlink(what))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use crate::testing::{Namespace, in_a_network, sh};

    const BRIDGE: &str = "pods0";

    fn ip(last: u8) -> IpAddr {
        [10, 42, 7, last].into()
    }

    fn ranges() -> Vec<IpNet> {
        vec!["10.42.7.0/24".parse().unwrap(), "fd42:7::/64".parse().unwrap()]
    }

    /// Two pods at `.2` and `.3`, the second of which has both families.
    async fn two_pods() -> (Bridge, Namespace, Namespace) {
        crate::enable_forwarding(true).unwrap();
        let bridge = Bridge::ensure(BRIDGE, &ranges()).await.unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        bridge.attach(&a.file(), "tp0000000000a", &[ip(2), "fd42:7::2".parse().unwrap()]).await.unwrap();
        bridge.attach(&b.file(), "tp0000000000b", &[ip(3), "fd42:7::3".parse().unwrap()]).await.unwrap();
        (bridge, a, b)
    }

    #[test]
    fn pods_reach_the_node_and_each_other_and_have_no_link_in_common() {
        in_a_network(|| async {
            let (bridge, a, _b) = two_pods().await;
            for address in ["10.42.7.1", "10.42.7.3", "fd42:7::1", "fd42:7::3"] {
                assert!(a.sh(&format!("busybox ping -c 1 -W 5 {address}")), "{address}");
            }
            assert!(sh("busybox ping -c 1 -W 5 10.42.7.2 && busybox ping -c 1 -W 5 fd42:7::2"));
            // Past the node there is nobody.
            assert!(!a.sh("ip route add 10.42.7.3 dev eth0; busybox ping -c 1 -W 1 10.42.7.3"));
            // A port that is gone takes its routes along.
            bridge.detach("tp0000000000a").await.unwrap();
            assert!(!sh("ip route show 10.42.7.2 | grep -q tp"));
        });
    }

    #[test]
    fn what_was_removed_is_made_again() {
        in_a_network(|| async {
            let (_, a, _b) = two_pods().await;
            assert!(sh(&format!("ip link delete {BRIDGE}")));
            assert!(!a.sh("busybox ping -c 1 -W 1 10.42.7.3"));
            let again = Bridge::ensure(BRIDGE, &ranges()).await.unwrap();
            for (port, last) in [("tp0000000000a", 2), ("tp0000000000b", 3)] {
                again.add_pod_routes(port, &[ip(last)]).await.unwrap();
            }
            assert!(a.sh("busybox ping -c 1 -W 5 10.42.7.3"));
        });
    }

    #[test]
    fn a_pod_of_an_older_agent_is_taken_from_the_bridge() {
        in_a_network(|| async {
            let (bridge, a, b) = two_pods().await;
            // As it was: a port of the bridge, hardware addresses by chance, neighbours asked for.
            assert!(sh(&format!("ip link set tp0000000000a master {BRIDGE} && ip route flush proto 116")));
            assert!(a.sh("ip link set eth0 address 02:00:00:00:00:02 && ip neigh flush dev eth0 nud permanent"));
            bridge.add_pod_routes("tp0000000000b", &[ip(3)]).await.unwrap();
            bridge.reattach(&a.file(), "tp0000000000a", &[ip(2)]).await.unwrap();
            assert!(a.sh("busybox ping -c 1 -W 5 10.42.7.3") && b.sh("busybox ping -c 1 -W 5 10.42.7.2"));
            assert!(!sh("ip link show tp0000000000a | grep -q master"));
            // Done twice it changes nothing.
            bridge.reattach(&a.file(), "tp0000000000a", &[ip(2)]).await.unwrap();
            assert!(a.sh("busybox ping -c 1 -W 5 10.42.7.3"));
        });
    }

    #[test]
    fn routes_and_addresses_of_another_life_go() {
        in_a_network(|| async {
            let (bridge, _a, _b) = two_pods().await;
            assert!(sh(
                "ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up && ip addr add 192.0.2.1/24 dev v0"
            ));
            // An older agent's within the cluster, ours, and somebody's elsewhere.
            assert!(sh(
                "ip route add 10.42.9.0/24 via 192.0.2.2 proto static && ip route add 10.99.0.0/24 via 192.0.2.2 proto static"
            ));
            let net = |text: &str| text.parse::<IpNet>().unwrap();
            for range in ["10.42.8.0/24", "10.42.10.0/24"] {
                bridge.add_node_route(net(range), [192, 0, 2, 2].into()).await.unwrap();
            }
            let removed = bridge
                .remove_stale_routes(&[net("10.42.0.0/16")], |range| range == net("10.42.10.0/24"))
                .await
                .unwrap();
            assert_eq!(removed.len(), 2, "{removed:?}");
            let there = |range: &str| sh(&format!("ip route show {range} | grep -q via"));
            assert_eq!(
                ["10.42.8.0/24", "10.42.9.0/24", "10.42.10.0/24", "10.99.0.0/24"].map(there),
                [false, false, true, true]
            );
            // Pods' own are no ways by another machine.
            assert!(sh("ip route show 10.42.7.2 | grep -q tp"));
            // The node's former range, and the present one.
            bridge.add_address([10, 42, 1, 1].into(), 24).await.unwrap();
            bridge.remove_other_addresses(&[ip(1), "fd42:7::1".parse().unwrap()]).await.unwrap();
            let has = |address: &str| sh(&format!("ip addr show {BRIDGE} | grep -q {address}/"));
            assert_eq!(["10.42.1.1", "10.42.7.1", "fd42:7::1"].map(has), [false, true, true]);
        });
    }
}
