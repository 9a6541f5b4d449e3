//! The control loops that make the cluster be what its objects say.
//!
//! Each module is one controller: where deciding is more than a line, a pure `plan` makes actions from what is
//! observed, and a small executor carries them out. All of them read the shared [`informer`] caches, write through the
//! API, and keep nothing else: after a crash the next look at the same objects goes on where the last one stopped.

mod account_tokens;
mod adoption;
mod autoscaler;
mod bootstrap_signer;
mod certificates;
mod cluster_roles;
mod cron_job;
mod custom_resources;
mod daemon_set;
mod definitions;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod ephemeral;
mod failures;
mod garbage;
mod gateway;
mod ingress;
mod job;
mod namespace;
mod nodes;
mod pod_gc;
mod pods;
mod policies;
mod replica_set;
mod resource_quota;
mod revisions;
mod service_account;
mod service_lb;
mod stateful_set;
mod storage;
mod token_cleaner;

use std::sync::Arc;

use apimachinery::AddressRanges;
use informer::{Informers, Recorder};
use kube::Client;

/// What the controllers need to know of the cluster.
pub struct Config {
    pub authority: Arc<pki::Authority>,
    /// Signs service-account tokens.
    pub token_key: Arc<pki::TokenKey>,
    pub cluster_cidr: AddressRanges,
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

#[derive(Clone)]
struct Context {
    client: Client,
    informers: Informers,
    events: Recorder,
    config: Arc<Config>,
}

impl Context {
    fn events(&self, component: &'static str) -> Self {
        Context { events: Recorder::new(self.client.clone(), component, ""), ..self.clone() }
    }
}

type Result<T = (), E = kube::Error> = std::result::Result<T, E>;

/// Starts all controllers. They end with the process.
pub fn start(config: Config, informers: Informers) {
    let client = informers.client().clone();
    let events = Recorder::new(client.clone(), "controller-manager", "");
    let context = Context { client, informers, events, config: Arc::new(config) };
    namespace::start(context.clone());
    service_account::start(context.clone());
    account_tokens::start(context.clone());
    bootstrap_signer::start(context.clone());
    certificates::start(context.clone());
    cluster_roles::start(context.clone());
    custom_resources::start(context.clone());
    policies::start(context.clone());
    nodes::start(context.events("node-controller"));
    replica_set::start(context.clone());
    deployment::start(context.events("deployment-controller"));
    stateful_set::start(context.events("statefulset-controller"));
    daemon_set::start(context.events("daemonset-controller"));
    disruption::start(context.events("disruption-controller"));
    resource_quota::start(context.clone());
    autoscaler::start(context.events("horizontal-pod-autoscaler"));
    job::start(context.events("job-controller"));
    cron_job::start(context.events("cronjob-controller"));
    endpoints::start(context.events("endpoint-slice-controller"));
    pod_gc::start(context.clone());
    token_cleaner::start(context.clone());
    ephemeral::start(context.events("ephemeral-volume-controller"));
    if context.config.ingress {
        ingress::start(context.events("ingress-controller"));
        let context = context.events("gateway-controller");
        tasks::until_done("gateway-controller", move || gateway::run(context.clone()));
    }
    if context.config.service_lb {
        service_lb::start(context.events("service-lb-controller"));
    }
    storage::start(context.events("persistentvolume-controller"));
    garbage::start(context.events("garbage-collector-controller"));
}

/// Taking what is gone already, or was made already, for done.
fn ignore<T>(result: Result<T>, codes: &[u16]) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        other => other.map(|_| ()),
    }
}
