//! NetworkPolicies, as rules of nftables on the node of the pods that they protect.
//!
//! [`plan`] turns policies, pods and namespaces into a [`Table`](network::nft::Table). Nothing is watched or written but
//! policies themselves until there is one.
//!
//! Rules are asked of every packet towards whoever is protected, not only of the first of a connection: when a policy
//! no longer lets somebody in, his open connections end too. What answers an allowed packet is allowed.
//!
//! Whom a policy selects is closed before his first process runs: the node tells what pods it has ([`LocalPods`]) before it starts their containers,
//! and waits for the rules.
//!
//! Two ways are always open, as people expect: from a node to its own pods (probes), and from pods to the cluster's DNS,
//! which is on the node and no pod that a policy could name.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Family;
use informer::{Change, Informers, Pod, Recorder};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use network::LocalPods;
use network::nft::{self, Keeper, NftError, Refusal, Table, Words};
use plan::Input;
use tokio::sync::Notify;
use tokio::time::Instant;

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
const BATCH_PERIOD: Duration = Duration::from_millis(5);
const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// How long rules that can't be written at all wait at first for the next try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// When a policy whose rules were refused is tried again.
const REFUSED_RETRY_PERIOD: Duration = Duration::from_secs(300);

/// Keeps the rules in step with the API until the process ends. Pods of this node start when the rules for them are in the kernel.
pub async fn run(config: Config, informers: Informers, local: LocalPods) {
    let policies = informers.of::<NetworkPolicy>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    policies.on_change(move |_| wake.notify_one());
    let mut arrivals = local.changes();
    informer::synced!(policies);
    if policies.list().is_empty() {
        // An agent before this one may have left rules of policies that went while none was there.
        if let Err(error) = nft::remove(&config.table).await {
            tracing::warn!(%error, "failed to remove stale rules of network policies");
        }
    }
    while policies.list().is_empty() {
        arrivals.borrow_and_update();
        local.permit(&local.list());
        tokio::select! {
            () = changed.notified() => {}
            _ = arrivals.changed() => {}
        }
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
    let mut tables: Vec<_> = config.families.iter().map(|family| Rules::new(&config, *family)).collect();
    let recorder = Recorder::new(informers.client().clone(), "network-policy", &config.node_name);
    let mut wait = FIRST_WAIT;
    loop {
        arrivals.borrow_and_update();
        let here = local.list();
        let (policies, pods, namespaces) = (policies.list(), pods.list(), namespaces.list());
        let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &here };
        let mut unwritten = BTreeSet::new();
        let mut failed = false;
        for rules in &mut tables {
            if let Err(error) = rules.write(&config, input, &recorder).await {
                tracing::error!(%error, "failed to write the rules of network policies; retrying");
                failed = true;
                unwritten.extend(rules.selected.iter().copied());
            }
        }
        // Whom no policy selects needn't wait for rules that are about others.
        local.permit(here.iter().filter(|pod| !pod.addresses.iter().any(|address| unwritten.contains(address))));
        if failed {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RESYNC_PERIOD);
            continue;
        }
        wait = FIRST_WAIT;
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(BATCH_PERIOD).await,
            // A pod waits for it.
            _ = arrivals.changed() => {}
            () = tokio::time::sleep(RESYNC_PERIOD) => {
                for rules in &mut tables {
                    rules.keeper.check().await;
                }
            }
        }
    }
}

/// The table of one family.
struct Rules {
    family: Family,
    keeper: Keeper,
    /// Addresses of this node's pods that policies select, as it was planned last.
    selected: BTreeSet<IpAddr>,
    /// Policies whose rules the kernel refused, as they were then, and when they are tried again.
    refused: Vec<(Arc<NetworkPolicy>, Instant)>,
}

impl Rules {
    fn new(config: &Config, family: Family) -> Self {
        let keeper = Keeper::new(&Words::of(family).table(&config.table), "forward_in");
        Rules { family, keeper, selected: BTreeSet::new(), refused: Vec::new() }
    }

    /// Writes the rules. Policies that the kernel refuses let nobody in or out, and hold up no other.
    async fn write(&mut self, config: &Config, input: Input<'_>, recorder: &Recorder) -> Result<(), NftError> {
        let now = Instant::now();
        self.refused.retain(|(old, again)| *again > now && input.policies.iter().any(|new| Arc::ptr_eq(old, new)));
        let wanted = self.plan(config, input);
        self.selected = plan::selected(&wanted);
        match self.keeper.keep(wanted).await {
            Err(NftError::Refused(_)) => {}
            other => return other,
        }
        // The difference didn't fit what the kernel has; all of it will, unless a policy is at fault.
        match self.keeper.keep(self.plan(config, input)).await {
            Err(NftError::Refused(_)) => {}
            other => return other,
        }
        let name = Words::of(self.family).table(&config.table);
        let script = |numbers: &[usize]| {
            let with: Vec<_> = numbers.iter().filter_map(|number| input.policies.get(*number)).collect();
            let allows = |policy: &Arc<NetworkPolicy>| with.iter().any(|one| Arc::ptr_eq(one, policy));
            plan::rules(config, self.family, input, allows).full(&name)
        };
        for Refusal { number, why } in nft::find_refused(input.policies.len(), script).await? {
            let Some(policy) = input.policies.get(number) else { continue };
            let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
            tracing::error!(
                namespace,
                name,
                why,
                "the kernel refused the rules of a network policy; its pods are isolated"
            );
            let message = format!("its rules can't be written on this node, so that it allows nothing there: {why}");
            recorder.warning(policy.as_ref(), "FailedRules", message);
            self.refused.push((policy.clone(), now + REFUSED_RETRY_PERIOD));
        }
        self.keeper.keep(self.plan(config, input)).await
    }

    fn plan(&self, config: &Config, input: Input<'_>) -> Table {
        let allows = |policy: &Arc<NetworkPolicy>| !self.refused.iter().any(|(one, _)| Arc::ptr_eq(one, policy));
        plan::rules(config, self.family, input, allows)
    }
}
