//! Pods on this node: which ones it takes in ([`admission`]), one [`worker`] for each of them, started by the [`manager`], their
//! [`probes`], and the [`status`] that the API is told.

pub mod admission;
pub mod manager;
#[deny(clippy::arithmetic_side_effects)]
pub mod probes;
pub mod sandbox;
pub mod static_pods;
pub mod status;
pub mod worker;
