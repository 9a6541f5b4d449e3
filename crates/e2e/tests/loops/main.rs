//! What controllers and scheduler do with objects, seen through the API, on nodes that pretend and on time that jumps.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

mod cluster;
mod daemons;
mod deaths;
mod deployments;
mod jobs;
mod keeping;
mod large;
mod nodes;
mod scaling;
mod scheduling;
mod services;
mod stateful;
mod volumes;
