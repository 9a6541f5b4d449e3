//! Controllers of nodes, and of the pods of nodes that are lost.

mod eviction;
mod health;
pub mod lifecycle;
pub mod pod_gc;
mod ranges;
mod taints;
mod ttl;
mod volumes;
