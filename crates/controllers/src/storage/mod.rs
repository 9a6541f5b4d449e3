//! Controllers of volumes and claims.

pub mod attach;
pub mod binding;
pub mod ephemeral;
mod expand;
mod origin;
mod snapshots;
