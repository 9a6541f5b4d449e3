//! The interface of this node that has its pods, the cluster's DNS and the way to services; made again when somebody removes it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use apimachinery::{AddressRanges, Family};
use ipnet::IpNet;
use kubelet::PodNetwork;
use network::{Bridge, Removals};

pub const NAME: &str = "timonel0";
/// How often it is looked for, should its removal have gone unheard.
const REPAIR: Duration = Duration::from_secs(60);

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
        // So that this machine itself reaches services, whose addresses no interface has.
        for range in self.service_cidr.iter() {
            bridge.route_services(range).await?;
        }
        Ok(bridge)
    }

    /// Makes it again whenever somebody removed it, and connects the pods that were on it.
    pub async fn keep(self, bridge: Bridge) {
        let mut removed = Removals::listen();
        loop {
            tokio::select! {
                name = removed.next() => if name != NAME { continue },
                () = tokio::time::sleep(REPAIR) => {}
            }
            if bridge.is_there().await {
                continue;
            }
            match self.restore().await {
                Ok(()) => tracing::warn!(bridge = NAME, "the bridge was removed and is made again, with its pods"),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the bridge was removed and can't be made again")
                }
            }
        }
    }

    async fn restore(&self) -> anyhow::Result<()> {
        Ok(self.ensure().await?.take_back(PodNetwork::PORTS).await?)
    }
}
