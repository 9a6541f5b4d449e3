//! Controllers of pods, and of what decides how many there are.

pub mod autoscaler;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod job;
pub mod replica_set;
mod revisions;
pub mod stateful_set;
