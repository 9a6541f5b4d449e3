//! The service proxy: Services as a table of nftables, like kube-proxy's mode `nftables`.
//!
//! [`plan`] turns Services and EndpointSlices into a [`Table`](network::nft::Table). One task waits for changes, batches them, and writes the
//! difference to the kernel; a slow resync rewrites the table if it was removed.
//!
//! Invariants: only the table named in [`Config`] is touched. `route_localnet` is enabled only once the rules are in place that drop
//! packets from other machines to 127.0.0.0/8 (CVE-2020-8558).

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod health;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{AddressRanges, Family};
use informer::{Cause, Change, Informers, Key, Pod, Recorder, SyncLoop};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::conntrack;
use network::nft::{FamilySyntax, NftError, RejectedPart, TableSync};
use plan::udp_backends::{self, UdpBackends};
use plan::{NodeTopology, Planner};
use tokio::sync::watch;

/// Configuration of the service proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table.
    pub table: String,
    /// Name of this node.
    pub node_name: String,
    /// The cluster's pod CIDRs.
    pub cluster_cidr: AddressRanges,
    /// The address of the cluster's DNS, if this node serves it.
    pub cluster_dns: Option<IpAddr>,
    /// The pods' bridge; none if a CNI plugin connects pods (and masquerades, if need be).
    pub bridge: Option<String>,
}

/// Changes within this period are written together.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
const RESYNC_PERIOD: Duration = Duration::from_secs(30);

/// Runs the service proxy until the process ends.
pub async fn run(config: Config, informers: Informers) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let nodes = informers.of::<Node>();
    // Only pods of this node with host ports matter.
    let pods = informers.selected::<Pod>(&format!("spec.nodeName={}", config.node_name));
    let mut sync = SyncLoop::new(BATCH_PERIOD, Some(RESYNC_PERIOD));
    sync.follow(&services);
    sync.follow(&slices);
    let own = config.node_name.clone();
    sync.follow_if(&nodes, move |change| match change {
        Change::Applied { old, new } => {
            new.metadata.name.as_ref() == Some(&own) && old.as_deref().and_then(zone_of) != zone_of(new)
        }
        Change::Deleted(_) => false,
    });
    sync.follow_if(&pods, |change| plan::host_port_mappings(change.object()).next().is_some());
    sync.synced().await;
    let mut health = health::HealthCheckServers::default();
    let mut tables: Vec<_> = config.cluster_cidr.families().map(|family| FamilyRules::new(&config, family)).collect();
    let mut is_routed = false;
    let recorder = Recorder::new(informers.client().clone(), "kube-proxy", &config.node_name);
    loop {
        let own = nodes.get(&Key::new("", &config.node_name));
        let topology = NodeTopology { zone: own.and_then(|node| zone_of(&node)) };
        let (all, endpoints) = (services.list(), slices.list());
        let own_pods = pods.list();
        let first = config.cluster_cidr.families().next().unwrap_or(Family::V4);
        health.sync(plan::health(&config, first, &all, &endpoints));
        let mut failed = false;
        // A failure in one family doesn't stop the other.
        for rules in &mut tables {
            match rules.write(&config, &topology, &all, &endpoints, &own_pods).await {
                Ok(rejected) => rejected.iter().for_each(|part| record_rejected(&recorder, part, &all, &own_pods)),
                Err(error) => {
                    tracing::error!(%error, "failed to write the rules of services; retrying");
                    failed = true;
                }
            }
        }
        if failed {
            sync.back_off().await;
            continue;
        }
        // Only after the rules are written that make it harmless.
        if !is_routed && tables.iter().any(|rules| rules.family == Family::V4) {
            is_routed = true;
            if let Err(error) = network::set_route_localnet(true) {
                tracing::warn!(%error, "failed to enable route_localnet; node ports and host ports can't be reached at 127.0.0.1");
            }
        }
        if sync.next().await == Cause::Resync {
            for rules in &mut tables {
                rules.table_sync.check().await;
            }
        }
    }
}

/// Records an event and logs that the kernel rejected the rules of a service or pod.
fn record_rejected(recorder: &Recorder, rejected: &RejectedPart, services: &[Arc<Service>], pods: &[Arc<Pod>]) {
    let RejectedPart { part, why } = rejected;
    tracing::error!(%part, %why, "the kernel refused the rules of a service or pod; the others are written");
    let message = format!("the rules for it can't be written on this node: {why}");
    if let Some(service) = services.iter().find(|service| plan::service_part(service) == **part) {
        recorder.warning(service.as_ref(), "FailedRules", message);
    } else if let Some(pod) = pods.iter().find(|pod| plan::pod_part(pod) == **part) {
        recorder.warning(pod.as_ref(), "FailedRules", message);
    }
}

/// The proxy of one family.
struct FamilyRules {
    family: Family,
    table_sync: TableSync,
    planner: Planner,
    /// UDP backends, for the task that deletes stale conntrack entries, so that the next write doesn't wait for it.
    udp_backends: watch::Sender<UdpBackends>,
}

impl FamilyRules {
    fn new(config: &Config, family: Family) -> Self {
        let table_sync = TableSync::new(&FamilySyntax::of(family).table(&config.table), "services");
        let (udp_backends, changes) = watch::channel(UdpBackends::default());
        tasks::until_done("stale-flows", move || delete_stale_conntrack(family, changes.clone()));
        FamilyRules { family, table_sync, planner: Planner::new(family), udp_backends }
    }

    async fn write(
        &mut self,
        config: &Config,
        topology: &NodeTopology,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        own_pods: &[Arc<Pod>],
    ) -> Result<Vec<RejectedPart>, NftError> {
        let mut parts = self.planner.parts(config, topology, services, slices);
        parts.extend(plan::host_port_parts(self.family, own_pods));
        let rejected = self.table_sync.sync_parts(plan::base_table(config, self.family), parts).await?;
        // After the write: a client that sends in between gets a new entry.
        let mut now = self.planner.udp_backends();
        now.extend(udp_backends::of_pods(self.family, own_pods));
        self.udp_backends.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
        Ok(rejected)
    }
}

/// Deletes stale UDP conntrack entries after each change of the backends, until the sender is dropped.
async fn delete_stale_conntrack(family: Family, mut changes: watch::Receiver<UdpBackends>) {
    while changes.changed().await.is_ok() {
        let now = changes.borrow_and_update().clone();
        match conntrack::delete_entries(family, move |entry| now.is_stale(entry)).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "deleted stale UDP conntrack entries"),
            Err(error) => {
                tracing::warn!(%error, "failed to delete stale UDP conntrack entries; datagrams may reach removed endpoints until they expire")
            }
        }
    }
}

fn zone_of(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
}
