//! The node as a whole: its object and lease ([`status`]), eviction under pressure ([`eviction`], [`local_storage`]), graceful
//! [`shutdown`], and what it tells of its use ([`stats`], [`metrics`]).

pub mod eviction;
pub mod local_storage;
pub mod metrics;
#[deny(clippy::arithmetic_side_effects)]
pub mod shutdown;
pub mod stats;
pub mod status;
