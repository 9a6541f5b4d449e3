//! The way to the pods of the other nodes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use apimachinery::AddressRanges;
use informer::{Cause, Informers, SyncLoop};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use network::{Bridge, NetworkError, Overlay, RemovedLinks};
use tokio::sync::watch;

/// The interface of the overlay, made when the first node needs it.
pub const OVERLAY: &str = "timonel-vx";
/// How often everything is written again, against changes by others.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);

/// This node's part in it.
#[derive(Clone)]
pub struct Own {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ranges: watch::Receiver<Vec<IpNet>>,
    /// All pods'.
    pub cluster: AddressRanges,
}

/// Keeps the way to every other node's pods: directly where the node is a neighbour, else through the overlay.
pub async fn keep(informers: Informers, bridge: Bridge, mut own: Own) {
    let nodes = informers.of::<Node>();
    let mut sync = SyncLoop::new(Duration::ZERO, Some(RESYNC_PERIOD));
    sync.follow(&nodes);
    let mut present: HashMap<IpNet, Vec<IpAddr>> = HashMap::new();
    let cluster: Vec<IpNet> = own.cluster.iter().collect();
    // Before the nodes are known every way would seem to lead nowhere.
    sync.synced().await;
    // Who removes the overlay takes the ways along.
    let mut removed = RemovedLinks::listen();
    loop {
        let ranges = own.ranges.borrow_and_update().clone();
        let others = nodes.list().into_iter().filter(|n| n.name_any() != own.name);
        let mut wanted: HashMap<IpNet, Vec<IpAddr>> = others.flat_map(|n| places(&n)).collect();
        // Ours lead nowhere else, whatever another node says of itself.
        wanted.retain(|range, _| !ranges.contains(range));
        present.retain(|range, _| wanted.contains_key(range));
        // What the kernel has counts, not what this process wrote: an agent before it may have served another cluster.
        match bridge.remove_stale_routes(&cluster, |range| wanted.contains_key(&range)).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "removed stale routes to the pods of other nodes"),
            Err(error) => tracing::warn!(%error, "failed to remove stale routes to the pods of other nodes"),
        }
        for (range, node) in &wanted {
            if present.get(range) == Some(node) {
                continue;
            }
            match lead(&bridge, &own.addresses, &ranges, *range, node).await {
                Ok(()) => {
                    present.insert(*range, node.clone());
                }
                Err(error) => tracing::warn!(%error, ?node, "failed to set up the route to another node's pods"),
            }
        }
        tokio::select! {
            cause = sync.next() => if cause == Cause::Resync { present.clear() },
            Ok(()) = own.ranges.changed() => present.clear(),
            name = removed.next() => if name == OVERLAY { present.clear() },
        }
    }
}

/// The ranges of a node's pods, each with the node's addresses.
fn places(node: &Node) -> Vec<(IpNet, Vec<IpAddr>)> {
    let listed = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let internal = listed.filter(|a| a.type_ == "InternalIP");
    let addresses: Vec<IpAddr> = internal.filter_map(|a| a.address.parse().ok()).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten()).filter_map(|range| range.parse().ok());
    ranges.map(|range| (range, addresses.clone())).collect()
}

/// By the node's address of the same family if it is a neighbour's, else through the overlay, which carries both families
/// between the addresses of one.
async fn lead(
    bridge: &Bridge,
    own: &[IpAddr],
    ranges: &[IpNet],
    range: IpNet,
    node: &[IpAddr],
) -> Result<(), NetworkError> {
    if let Some(same) = node.iter().find(|ip| ip.is_ipv4() == range.addr().is_ipv4())
        && network::is_neighbour(*same).await?
    {
        return bridge.add_node_route(range, *same).await;
    }
    let pair = own.iter().find_map(|a| Some((a, node.iter().find(|b| a.is_ipv4() == b.is_ipv4())?)));
    // Nodes of different families can't reach each other at all.
    let Some((from, to)) = pair else { return Ok(()) };
    Overlay::ensure(OVERLAY, *from, ranges).await?.add_node_route(range, *to).await
}
