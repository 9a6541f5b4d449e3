//! The way to a kubelet.

use std::net::IpAddr;

use api::kinds;
use apimachinery::{ObjectExt as _, Status};

use super::Destination;
use crate::ApiServer;

/// Where the kubelet of a node serves, with the certificate by which it knows this server.
///
/// # Errors
/// 404 without such a node, 500 for a node that has no internal address in its status.
pub fn destination(server: &ApiServer, node: &str) -> Result<Destination, Status> {
    let (address, port) = kubelet_address(server, node)?;
    let description = format!("the kubelet of node {node}");
    Ok(Destination {
        description,
        host: address.to_string(),
        port,
        tls: Some((server.clients.kubelets.clone(), address.to_string())),
        allow_any_address: false,
    })
}

fn kubelet_address(server: &ApiServer, name: &str) -> Result<(IpAddr, u16), Status> {
    let node = server.cache.of(kinds::NODES).get(name).ok_or_else(|| kinds::NODES.not_found(name))?.parse();
    let addresses = node.array_at(&["status", "addresses"]);
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP").map(|a| a.str_at(&["address"]));
    let address = internal
        .and_then(|a| a.parse().ok())
        .ok_or_else(|| Status::internal(format!("node {name} has no address in its status")))?;
    let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(10250);
    Ok((address, u16::try_from(port).unwrap_or(10250)))
}
