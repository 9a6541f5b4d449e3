//! The interface of this node that has its pods, the cluster's DNS and the way to services; made again when somebody removes it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use apimachinery::{AddressRanges, Family};
use ipnet::IpNet;
use network::{Bridge, LocalPods, RemovedLinks, gateway};
use tokio::sync::watch;

pub const NAME: &str = "timonel0";
/// How often it is looked for, should its removal have gone unheard.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);

/// What is wanted of it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Those of this node's pods; none where somebody else makes their network.
    pub ranges: Vec<IpNet>,
    pub cluster_cidr: AddressRanges,
    pub service_cidr: AddressRanges,
    /// If it is served on this node.
    pub cluster_dns: Option<IpAddr>,
}

impl Wanted {
    /// Makes what isn't there.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn ensure(&self) -> anyhow::Result<Bridge> {
        network::enable_forwarding(self.cluster_cidr.families().any(|family| family == Family::V6))?;
        let made = Bridge::ensure(NAME, &self.ranges).await;
        let bridge = made.context("the pod network can't be set up (are you root?)")?;
        if let Some(dns) = self.cluster_dns {
            bridge.add_address(dns, if dns.is_ipv4() { 32 } else { 128 }).await?;
        }
        let own: Vec<IpAddr> = self.ranges.iter().map(|range| gateway(*range)).chain(self.cluster_dns).collect();
        bridge.remove_other_addresses(&own).await?;
        // So that this machine itself reaches services, whose addresses no interface has.
        for range in self.service_cidr.iter() {
            bridge.add_service_route(range).await?;
        }
        Ok(bridge)
    }

    /// Makes it again whenever somebody removed it or something of it, and the ways to this node's pods with it.
    pub async fn keep(mut self, bridge: Bridge, pods: LocalPods, mut ranges: watch::Receiver<Vec<IpNet>>) {
        let mut removed = RemovedLinks::listen();
        loop {
            tokio::select! {
                name = removed.next() => if name != NAME { continue },
                Ok(()) = ranges.changed(), if !self.ranges.is_empty() => {
                    self.ranges.clone_from(&ranges.borrow_and_update());
                    tracing::warn!(ranges = ?self.ranges, "the podCIDRs of this node changed");
                }
                () = tokio::time::sleep(RESYNC_PERIOD) => {}
            }
            let was_there = bridge.exists().await;
            match self.restore(&pods).await {
                Ok(()) if was_there => {}
                Ok(()) => tracing::warn!(bridge = NAME, "the bridge was removed; creating it again"),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), bridge = NAME, "failed to repair the pod network")
                }
            }
        }
    }

    async fn restore(&self, pods: &LocalPods) -> anyhow::Result<()> {
        let bridge = self.ensure().await?;
        // Who brings plugins has his pods' ways to himself.
        for pod in pods.list().iter().filter(|_| !self.ranges.is_empty()) {
            if let Err(error) = bridge.add_pod_routes(&kubelet::port_name(&pod.uid), &pod.addresses).await {
                // It may be on its way out.
                tracing::debug!(%error, uid = pod.uid, "failed to repair the route to a pod");
            }
        }
        Ok(())
    }
}
