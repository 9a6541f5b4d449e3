//! What tests and benchmarks need around the binary: images made offline from Debian's packages, and clusters in
//! network namespaces of their own that leave nothing behind.

pub mod cluster;
pub mod images;
pub mod registry;

pub use cluster::{Cluster, Node, Output};
pub use registry::Registry;
