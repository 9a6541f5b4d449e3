//! Controllers of nodes, and of the pods of nodes that are lost.

pub mod device_taints;
mod eviction;
mod health;
pub mod lifecycle;
pub mod pod_gc;
mod ranges;
pub mod resource_claims;
mod taints;
mod ttl;
mod volumes;
