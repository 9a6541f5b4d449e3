//! What tests and benchmarks need around the binary: images made offline from Debian's packages, clusters in network
//! namespaces of their own that leave nothing behind, and nodes that only pretend to run pods.

#![allow(clippy::disallowed_methods, reason = "who runs it sees a panic")]

mod binaries;
pub mod clients;
pub mod cluster;
pub mod containerd;
pub mod fake;
pub mod images;
pub mod inventory;
pub mod node;
pub mod registry;
mod registry_layout;

pub use binaries::beside_test;
pub use cluster::Cluster;
pub use node::{Beside, Node, Output};
pub use registry::Registry;
