//! The node as a whole: its registration, status and lease ([`reporter`]), eviction under pressure ([`eviction`]) with image garbage
//! collection and limits of local storage, and its statistics ([`stats`], [`metrics`]).

pub mod eviction;
mod image_gc;
mod lease;
pub mod local_storage;
pub mod metrics;
pub mod registration;
pub mod reporter;
pub mod stats;
mod status;
