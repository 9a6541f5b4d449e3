//! Services, as rules of nftables.
//!
//! [`plan`] turns services and endpoints into a [`Table`](network::nft::Table), a value. One task waits for changes,
//! gathers those that come together, and writes the difference; a slow timer writes all anew if somebody removed it.
//!
//! Invariants: only the table named in [`Config`] is touched. What comes from 127.0.0.1 may leave by other interfaces only once the
//! rules are there that let nobody else come to such addresses.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod health;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{AddressRanges, Family};
use informer::{Change, Informers, Key, Pod, Recorder};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::flows;
use network::nft::{Keeper, LeftOut, NftError, Words};
use plan::datagrams::{self, Datagrams};
use plan::{Place, Planner};
use tokio::sync::{Notify, watch};

#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table.
    pub table: String,
    pub node_name: String,
    pub cluster_cidr: AddressRanges,
    /// This address is answered on the node itself; none where somebody else serves names.
    pub cluster_dns: Option<IpAddr>,
    /// The bridge of the pods; none where somebody else makes their network, and hides their addresses from the world if need be.
    pub bridge: Option<String>,
}

/// Changes that come within this time are written together.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// How long rules that can't be written at all wait at first for the next try.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Keeps the rules in step with the API until the process ends.
pub async fn run(config: Config, informers: Informers) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let nodes = informers.of::<Node>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    services.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    slices.on_change(move |_| wake.notify_one());
    let (wake, own) = (changed.clone(), config.node_name.clone());
    nodes.on_change(move |change| {
        if let Change::Applied { old, new } = change
            && new.metadata.name.as_ref() == Some(&own)
            && old.as_deref().and_then(zone_of) != zone_of(new)
        {
            wake.notify_one();
        }
    });
    // Of this node's pods only those matter that have a port of the machine.
    let pods = informers.selected::<Pod>(&format!("spec.nodeName={}", config.node_name));
    let wake = changed.clone();
    pods.on_change(move |change| {
        if plan::on_the_machine(change.object()).next().is_some() {
            wake.notify_one();
        }
    });
    informer::synced!(services, slices, nodes, pods);
    let mut health = health::Ports::default();
    let mut tables: Vec<_> = config.cluster_cidr.families().map(|family| Rules::new(&config, family)).collect();
    let mut is_routed = false;
    let recorder = Recorder::new(informers.client().clone(), "kube-proxy", &config.node_name);
    let mut wait = FIRST_WAIT;
    loop {
        let own = nodes.get(&Key::new("", &config.node_name));
        let place = Place { zone: own.and_then(|node| zone_of(&node)) };
        let (all, endpoints) = (services.list(), slices.list());
        let own_pods = pods.list();
        let first = config.cluster_cidr.families().next().unwrap_or(Family::V4);
        health.keep(plan::health(&config, first, &all, &endpoints));
        let mut failed = false;
        // What goes wrong in one family is nothing to the other.
        for rules in &mut tables {
            match rules.write(&config, &place, &all, &endpoints, &own_pods).await {
                Ok(left_out) => left_out.iter().for_each(|part| tell(&recorder, part, &all, &own_pods)),
                Err(error) => {
                    tracing::error!(%error, "failed to write the rules of services; retrying");
                    failed = true;
                }
            }
        }
        if failed {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RESYNC_PERIOD);
            continue;
        }
        wait = FIRST_WAIT;
        // Only now that the rules are there which make it harmless.
        if !is_routed && tables.iter().any(|rules| rules.family == Family::V4) {
            is_routed = true;
            if let Err(error) = network::route_loopback(true) {
                tracing::warn!(%error, "failed to enable route_localnet; node ports and host ports can't be reached at 127.0.0.1");
            }
        }
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(BATCH_PERIOD).await,
            () = tokio::time::sleep(RESYNC_PERIOD) => {
                for rules in &mut tables {
                    rules.keeper.check().await;
                }
            }
        }
    }
}

/// Says that a service or a pod has no rules because the kernel refuses them.
fn tell(recorder: &Recorder, left_out: &LeftOut, services: &[Arc<Service>], pods: &[Arc<Pod>]) {
    let LeftOut { part, why } = left_out;
    tracing::error!(%part, %why, "the kernel refused the rules of a service or pod; the others are written");
    let message = format!("the rules for it can't be written on this node: {why}");
    if let Some(service) = services.iter().find(|service| plan::part_of_service(service) == **part) {
        recorder.warning(service.as_ref(), "FailedRules", message);
    } else if let Some(pod) = pods.iter().find(|pod| plan::part_of_pod(pod) == **part) {
        recorder.warning(pod.as_ref(), "FailedRules", message);
    }
}

/// The table of one family, as it was written last.
struct Rules {
    family: Family,
    keeper: Keeper,
    planner: Planner,
    /// Where datagrams are led, for the task that makes the kernel forget flows to elsewhere: the next rules don't wait for it.
    datagrams: watch::Sender<Datagrams>,
}

impl Rules {
    fn new(config: &Config, family: Family) -> Self {
        let keeper = Keeper::new(&Words::of(family).table(&config.table), "services");
        let (datagrams, changes) = watch::channel(Datagrams::default());
        tasks::until_done("stale-flows", move || forget_flows(family, changes.clone()));
        Rules { family, keeper, planner: Planner::new(family), datagrams }
    }

    async fn write(
        &mut self,
        config: &Config,
        place: &Place,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        own_pods: &[Arc<Pod>],
    ) -> Result<Vec<LeftOut>, NftError> {
        let mut parts = self.planner.parts(config, place, services, slices);
        parts.extend(plan::host_ports(self.family, own_pods));
        let left_out = self.keeper.keep_parts(plan::frame(config, self.family), parts).await?;
        // Only after that: who sends in between makes a new flow.
        let mut now = self.planner.datagrams();
        now.extend(datagrams::of_pods(self.family, own_pods));
        self.datagrams.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
        Ok(left_out)
    }
}

/// Makes the kernel forget flows of datagrams whenever they are led elsewhere, as long as there is somebody to say where.
async fn forget_flows(family: Family, mut changes: watch::Receiver<Datagrams>) {
    while changes.changed().await.is_ok() {
        let now = changes.borrow_and_update().clone();
        match flows::forget(family, move |flow| now.is_stale(flow)).await {
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
