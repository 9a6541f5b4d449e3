//! The API as clients see it: requests to a real server on a store in memory, and what it answers.
#![allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves, and see a panic by themselves")]

mod access;
mod admission;
mod apply;
mod audited;
mod bodies;
mod contention;
mod custom;
mod definitions;
mod discovery;
mod errors;
mod fairness;
mod families;
mod hostile;
mod joining;
mod kinds;
mod kube_rs;
mod lists;
mod match_policy;
mod namesakes;
mod plugins;
mod policies;
mod products;
mod protobuf;
mod reads;
mod reports;
mod server;
mod statuses;
mod tls;
mod updates;
mod validation;
mod versions;
mod watches;
mod webhooks;
mod writes;
