//! The rules: pure functions over a snapshot, a file for each area. Each tells what is wrong with one object, and may name others that explain it.

mod admission;
mod amounts;
mod autoscalers;
mod budgets;
mod claims;
mod config;
mod deletion;
mod dns;
mod exits;
mod gateway;
mod images;
mod ingress;
mod machine;
mod network_policies;
mod nodes;
mod pod;
mod pods;
mod probes;
mod rbac;
mod scheduling;
mod services;
mod start;
mod workloads;

use serde_json::Value;

use crate::finding::Finding;
use crate::object::seconds_since;
use crate::snapshot::{Snapshot, event_time};

pub use exits::wanted_logs;
pub use network_policies::cut;
pub use nodes::last_warnings;
pub use pod::{Container, containers, is_ready, owner};
pub use scheduling::claims as claims_of;

/// Events older than this are about something that is over.
const RECENT_SECONDS: i64 = 900;

/// Everything that is wrong.
pub fn all(s: &Snapshot) -> Vec<Finding> {
    let mut out = Vec::new();
    let rules: [fn(&Snapshot, &mut Vec<Finding>); 20] = [
        machine::check,
        nodes::check,
        admission::check,
        claims::check,
        scheduling::check,
        config::check,
        images::check,
        start::check,
        rbac::check,
        dns::check,
        exits::check,
        probes::check,
        // After the rules about what is wrong with single containers.
        pods::check,
        deletion::check,
        workloads::check,
        services::check,
        ingress::check,
        gateway::check,
        network_policies::check,
        others,
    ];
    for rule in rules {
        rule(s, &mut out);
    }
    out
}

fn others(s: &Snapshot, out: &mut Vec<Finding>) {
    budgets::check(s, out);
    autoscalers::check(s, out);
}

fn is_recent(s: &Snapshot, event: &Value) -> bool {
    seconds_since(event_time(event), s.now) < RECENT_SECONDS
}

fn start_was_refused_root(message: &str) -> bool {
    start::refuses_root(message)
}
