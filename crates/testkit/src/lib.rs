//! What tests and benchmarks need around the binary: images made offline from Debian's packages, clusters in network
//! namespaces of their own that leave nothing behind, and nodes that only pretend to run pods.

pub mod cluster;
pub mod containerd;
pub mod fake;
pub mod images;
pub mod inventory;
pub mod registry;

pub use cluster::{Cluster, Node, Output};
pub use registry::Registry;
