//! NetworkPolicies, as rules of nftables on the node of the pods that they protect.
//!
//! [`plan`] turns policies, pods and namespaces into a [`Table`](network::nft::Table). Nothing is watched or written but
//! policies themselves until there is one.
//!
//! Rules are asked of every packet towards whoever is protected, not only of the first of a connection: when a policy
//! no longer lets somebody in, his open connections end too. What answers an allowed packet is allowed.
//!
//! Two ways are always open, as people expect: from a node to its own pods (probes), and from pods to the cluster's DNS,
//! which is on the node and no pod that a policy could name.

pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Family;
use informer::{Change, Informers, Pod};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use network::nft::{Keeper, Words};
use tokio::sync::Notify;

#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table.
    pub table: String,
    pub node_name: String,
    /// If it is served on the node itself.
    pub cluster_dns: Option<IpAddr>,
    /// Of the pods' addresses.
    pub families: Vec<Family>,
}

/// Changes that come within this time are written together.
const GATHER: Duration = Duration::from_millis(5);
const RESYNC: Duration = Duration::from_secs(30);

/// Keeps the rules in step with the API until the process ends.
pub async fn run(config: Config, informers: Informers) {
    let policies = informers.of::<NetworkPolicy>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    policies.on_change(move |_| wake.notify_one());
    informer::synced!(policies);
    while policies.list().is_empty() {
        changed.notified().await;
    }
    let (pods, namespaces) = (informers.of::<Pod>(), informers.of::<Namespace>());
    let wake = changed.clone();
    pods.on_change(move |change| {
        if !matches!(change, Change::Applied { old: Some(old), new } if !plan::concerns(old, new)) {
            wake.notify_one();
        }
    });
    let wake = changed.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Applied { old: Some(old), new } if old.metadata.labels == new.metadata.labels) {
            wake.notify_one();
        }
    });
    informer::synced!(pods, namespaces);
    let keeper = |family| (family, Keeper::new(&Words::of(family).table(&config.table), "forward_in"));
    let mut tables: Vec<_> = config.families.iter().map(|family| keeper(*family)).collect();
    'rounds: loop {
        let (policies, pods, namespaces) = (policies.list(), pods.list(), namespaces.list());
        for (family, keeper) in &mut tables {
            let wanted = plan::rules(&config, *family, &policies, &pods, &namespaces);
            if let Err(error) = keeper.keep(wanted).await {
                tracing::error!(%error, "the rules of network policies can't be written; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue 'rounds;
            }
        }
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RESYNC) => {
                for (_, keeper) in &mut tables {
                    keeper.check().await;
                }
            }
        }
    }
}
