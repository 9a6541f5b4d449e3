//! The ranges of pod addresses that nodes get.

use std::collections::HashSet;

use informer::Keyed as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::lifecycle::NodeLifecycleController;
use crate::toolkit::Result;

/// Prefix length of a node's range of IPv6 addresses, as upstream has it.
const NODE_PREFIX_V6: u8 = 64;

/// A range of `cluster` that no node has, also in part: nodes keep what they got when ranges had another length. `prefix` is
/// that of IPv4.
fn free_range(cluster: IpNet, prefix: u8, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let prefix = if cluster.addr().is_ipv4() { prefix } else { NODE_PREFIX_V6 };
    let prefix = prefix.max(cluster.prefix_len());
    let others: Vec<&IpNet> = taken.iter().filter(|range| range.prefix_len() != prefix).collect();
    let overlaps = |range: &IpNet| others.iter().any(|other| other.contains(range) || range.contains(*other));
    cluster.subnets(prefix).ok()?.find(|range| !taken.contains(range) && !overlaps(range))
}

/// Gives a node its range of pod addresses. If there is none left, the deletion of another node brings it here again.
///
/// # Errors
/// The API refuses the range, as it does when the node has got another one or is gone.
pub(super) async fn give_range(of: &NodeLifecycleController, node: &Node) -> Result {
    let (context, nodes) = (&of.context, &of.nodes);
    let list = nodes.list();
    let taken =
        list.iter().filter_map(|n| n.spec.as_ref()?.pod_cidrs.as_ref()).flatten().filter_map(|c| c.parse().ok());
    let taken = taken.collect();
    let ranges = context
        .config
        .cluster_cidr
        .iter()
        .map(|cluster| free_range(cluster, context.config.node_cidr_mask_size, &taken));
    let Some(ranges) = ranges.map(|range| range.map(|r| r.to_string())).collect::<Option<Vec<String>>>() else {
        if of.without_range.lock().insert(node.name_any()) {
            let text = format!("Node {} status is now: CIDRNotAvailable", node.name_any());
            context.events.normal(node, "CIDRNotAvailable", text);
        }
        return Ok(());
    };
    let api: Api<Node> = Api::all(context.client.clone());
    let patch = json!({"spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
    let changed = api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    let cidr = changed.spec.and_then(|s| s.pod_cidr);
    nodes.wait_for(&node.key(), |n| n.and_then(|n| n.spec.as_ref()).and_then(|s| s.pod_cidr.clone()) == cidr).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_once() {
        let cluster: IpNet = "10.42.0.0/16".parse().unwrap();
        let taken = HashSet::from(["10.42.0.0/24".parse().unwrap()]);
        assert_eq!(free_range(cluster, 24, &taken), "10.42.1.0/24".parse().ok());
        assert_eq!(free_range(cluster, 23, &taken), "10.42.2.0/23".parse().ok());
        let small: IpNet = "10.42.0.0/24".parse().unwrap();
        assert_eq!(free_range(small, 24, &taken), None);
    }
}
