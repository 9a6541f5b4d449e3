//! The way to the pods of the other nodes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use informer::Informers;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use network::{Bridge, NetworkError, Overlay};

/// The interface of the overlay, made when the first node needs it.
pub const OVERLAY: &str = "timonel-vx";
/// How often everything is written again, against changes by others.
const REPAIR: Duration = Duration::from_secs(60);

/// This node's part in it.
pub struct Own {
    pub name: String,
    pub address: IpAddr,
    pub range: IpNet,
}

/// Keeps the way to every other node's pods: directly where the node is a neighbour, else through the overlay.
pub async fn keep(informers: Informers, bridge: Bridge, own: Own) {
    let nodes = informers.of::<Node>();
    let changed = Arc::new(tokio::sync::Notify::new());
    let wake = changed.clone();
    nodes.on_change(move |_| wake.notify_one());
    let mut present: HashMap<IpNet, IpAddr> = HashMap::new();
    loop {
        let others = nodes.list().into_iter().filter(|n| n.name_any() != own.name);
        let wanted: HashMap<IpNet, IpAddr> = others.filter_map(|n| place(&n)).collect();
        for (range, _) in present.clone().iter().filter(|(r, _)| !wanted.contains_key(*r)) {
            let _ = bridge.unroute(*range).await;
            present.remove(range);
        }
        for (range, node) in &wanted {
            if present.get(range) == Some(node) {
                continue;
            }
            match lead(&bridge, &own, *range, *node).await {
                Ok(()) => {
                    present.insert(*range, *node);
                }
                Err(error) => tracing::warn!(%error, %node, "the pods of another node can't be reached"),
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(REPAIR) => present.clear(),
        }
    }
}

/// The range of a node's pods, and its address.
fn place(node: &Node) -> Option<(IpNet, IpAddr)> {
    let range = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()?;
    Some((range, address))
}

async fn lead(bridge: &Bridge, own: &Own, range: IpNet, node: IpAddr) -> Result<(), NetworkError> {
    if network::is_neighbour(node).await? {
        return bridge.route(range, node).await;
    }
    Overlay::ensure(OVERLAY, own.address, own.range).await?.lead(range, node).await
}
