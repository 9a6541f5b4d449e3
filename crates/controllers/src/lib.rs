//! The control loops that make the cluster be what its objects say.
//!
//! Each module is one controller: where deciding is more than a line, a pure `plan` makes actions from what is
//! observed, and a small executor carries them out. All of them read the shared [`informer`] caches, write through the
//! API, and keep nothing else: after a crash the next look at the same objects goes on where the last one stopped.

#![warn(missing_docs, clippy::missing_errors_doc)]

mod cluster;
mod network;
mod nodes;
mod storage;
mod toolkit;
mod workloads;

use std::sync::Arc;

use apimachinery::AddressRanges;
use informer::{Informers, Recorder};

use toolkit::Context;

/// What the controllers need to know of the cluster.
pub struct Config {
    /// Signs certificates of nodes and of clients, and is published as the cluster's root.
    pub authority: Arc<pki::Authority>,
    /// Signs service-account tokens.
    pub token_key: Arc<pki::TokenKey>,
    /// The ranges of pod addresses, of which nodes get their own.
    pub cluster_cidr: AddressRanges,
    /// The ranges of the addresses of services.
    pub service_cidr: AddressRanges,
    /// Names and addresses of the API server beside those that it always has.
    pub api_names: Vec<String>,
    /// Prefix length of a node's range of IPv4 addresses.
    pub node_cidr_mask_size: u8,
    /// Whether the `local-path` storage class and its provisioner are wanted.
    pub local_storage: bool,
    /// Whether VolumeSnapshots are served here, and not by another product.
    pub snapshots: bool,
    /// Whether LoadBalancer services get the addresses of nodes.
    pub service_lb: bool,
    /// Whether the nodes serve Ingresses.
    pub ingress: bool,
    /// The port of the API, which no service may take on a node.
    pub api_port: i32,
}

/// A control loop.
struct Loop {
    /// The component that its events have as their source.
    component: &'static str,
    start: fn(Context),
    is_wanted: fn(&Config) -> bool,
}

const fn always(component: &'static str, start: fn(Context)) -> Loop {
    Loop { component, start, is_wanted: |_| true }
}

/// All loops, in the order in which they start.
const LOOPS: &[Loop] = &[
    always(MANAGER, cluster::namespace::start),
    always(MANAGER, cluster::service_account::start),
    always(MANAGER, cluster::account_tokens::start),
    always(MANAGER, cluster::legacy_tokens::start),
    always(MANAGER, cluster::bootstrap_signer::start),
    always(MANAGER, cluster::certificates::start),
    always(MANAGER, cluster::certificates::pod_requests::start),
    always(MANAGER, cluster::certificates::serving_bundle::start),
    always(MANAGER, cluster::storage_migration::start),
    always(MANAGER, cluster::cluster_roles::start),
    always(MANAGER, cluster::custom_resources::start),
    always(MANAGER, cluster::policies::start),
    always("node-controller", nodes::lifecycle::start),
    always("replicaset-controller", workloads::replica_set::start),
    always("replication-controller", workloads::replica_set::start_of_replication_controllers),
    always("deployment-controller", workloads::deployment::start),
    always("statefulset-controller", workloads::stateful_set::start),
    always("daemonset-controller", workloads::daemon_set::start),
    always("controllermanager", workloads::disruption::start),
    always(MANAGER, cluster::resource_quota::start),
    always("horizontal-pod-autoscaler", workloads::autoscaler::start),
    always("job-controller", workloads::job::start),
    always("cronjob-controller", workloads::cron_job::start),
    always("endpoint-slice-controller", network::endpoints::start),
    always(MANAGER, nodes::pod_gc::start),
    always(MANAGER, cluster::token_cleaner::start),
    always("ephemeral_volume", storage::ephemeral::start),
    always("resource_claim", nodes::resource_claims::start),
    always("device-taint-eviction", nodes::device_taints::start),
    Loop { component: "ingress-controller", start: network::ingress::start, is_wanted: |config| config.ingress },
    Loop { component: "gateway-controller", start: network::gateway::start, is_wanted: |config| config.ingress },
    Loop {
        component: "service-lb-controller",
        start: network::service_lb::start,
        is_wanted: |config| config.service_lb,
    },
    always("attachdetach-controller", storage::attach::start),
    always("persistentvolume-controller", storage::binding::start),
    always("garbage-collector-controller", cluster::garbage::start),
];

/// The source of events of loops that have no name of their own in upstream's events.
const MANAGER: &str = "controller-manager";

/// Starts all controllers. They end with the process.
pub fn start(config: Config, informers: Informers) {
    let client = informers.client().clone();
    let events = Recorder::new(client.clone(), MANAGER, "");
    let context = Context { client, informers, events, config: Arc::new(config) };
    for one in LOOPS.iter().filter(|one| (one.is_wanted)(&context.config)) {
        (one.start)(context.events(one.component));
    }
}
