//! Pods on this node: which ones it takes in ([`admission`]), one [`worker`] for each of them, started by the [`manager`], their
//! [`probes`], their sandboxes, and the [`status`] that is written to the API. [`static_pods`] come from manifests of this machine; [`shutdown`]
//! is how pods end with their machine.

pub mod admission;
pub mod context;
pub mod manager;
#[deny(clippy::arithmetic_side_effects)]
mod probes;
mod sandbox;
#[deny(clippy::arithmetic_side_effects)]
pub mod shutdown;
pub mod static_pods;
pub mod status;
mod worker;
mod workers;
