//! Services, as rules of nftables.
//!
//! [`plan`] turns services and endpoints into a [`Ruleset`](plan::Ruleset), a value; [`apply`] writes the difference
//! between two such values in one transaction of `nft`. One task waits for changes, gathers those that come together,
//! and applies them; a slow timer compares with the kernel's table and writes all anew if somebody removed it.
//!
//! Invariant: only the table named in [`Config`] is touched.

mod apply;
pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use informer::Informers;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

pub use apply::ApplyError;
pub use plan::Ruleset;

#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table.
    pub table: String,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub cluster_cidr: IpNet,
    /// This address is answered on the node itself.
    pub cluster_dns: IpAddr,
    /// The bridge of the pods.
    pub bridge: String,
}

/// Changes that come within this time are written together.
const GATHER: Duration = Duration::from_millis(5);
const RESYNC: Duration = Duration::from_secs(30);

/// Keeps the rules in step with the API until the process ends.
pub async fn run(config: Config, informers: Informers) {
    let services = informers.of::<Service>();
    let slices = informers.of::<EndpointSlice>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    services.on_change(move |_| wake.notify_one());
    let wake = changed.clone();
    slices.on_change(move |_| wake.notify_one());
    informer::synced!(services, slices);
    let mut written: Option<Ruleset> = None;
    loop {
        let wanted = plan::rules(&config, &services.list(), &slices.list());
        let outcome = match &written {
            Some(present) if *present == wanted => Ok(()),
            present => apply::write(&config.table, present.as_ref(), &wanted).await,
        };
        match outcome {
            Ok(()) => written = Some(wanted),
            Err(error) => {
                tracing::error!(%error, "the service rules can't be written; trying again");
                // The difference didn't fit what the kernel has: next time everything is written.
                written = None;
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RESYNC) => {
                if !apply::exists(&config.table).await {
                    tracing::warn!(table = config.table, "the table of service rules is gone; writing it anew");
                    written = None;
                }
            }
        }
    }
}

/// Removes all rules.
///
/// # Errors
/// When `nft` fails.
pub async fn remove(table: &str) -> Result<(), ApplyError> {
    apply::remove(table).await
}
