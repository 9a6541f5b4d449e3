//! The pod network of one node: a bridge, a veth pair and an address for each pod, and the way to the other nodes: routes
//! where they share a segment, VXLAN where they don't.
//!
//! Pods have addresses without a network (/32, /128) and reach everything, also each other, through the node. So every packet of a pod passes the
//! node's IP layer, where services are translated, and nothing depends on bridge netfilter.
//!
//! Invariant: what is here can be made again from the pods' state on disk and the Node objects; nothing is remembered.
//! Tested in network namespaces of their own.

mod addresses;
pub mod cni;
pub mod flows;
mod link;
pub mod nft;
mod overlay;
pub mod plugin;

pub use addresses::{Addresses, AddressesError};
pub use link::{Bridge, NetworkError, Removals, default_addresses, enable_forwarding, gateway, route_loopback};
pub use overlay::{Overlay, is_neighbour};
