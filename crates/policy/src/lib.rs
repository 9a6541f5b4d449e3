//! The network policy controller: NetworkPolicies as a table of nftables on the node of the pods that they select.
//!
//! [`plan`] turns policies, pods and namespaces into a [`Table`]. Until the first policy exists, only policies are
//! watched, and nothing is written.
//!
//! Rules are evaluated for every packet in the original direction, not only for the first of a connection: when a policy stops allowing a
//! peer, its open connections end, too. Replies to allowed packets are allowed.
//!
//! A selected pod is isolated before its first process runs: the kubelet adds its pods to [`LocalPods`] before it starts their containers, and
//! waits for the rules.
//!
//! Two kinds of traffic are always allowed: from a node to its own pods (probes), and from pods to the cluster's DNS, which runs on the
//! node and isn't a pod that a policy could select.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Family;
use informer::{Cause, Change, Informer, Informers, Pod, Recorder, SyncLoop};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use network::LocalPods;
use network::nft::{self, FamilySyntax, NftError, RejectedItem, Table, TableSync};
use plan::Input;
use tokio::time::Instant;

/// Configuration of the network policy controller.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table.
    pub table: String,
    /// Name of this node.
    pub node_name: String,
    /// The address of the cluster's DNS, if this node serves it.
    pub cluster_dns: Option<IpAddr>,
    /// The families of pods' addresses.
    pub families: Vec<Family>,
}

/// Changes within this period are written together.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// Retry period of a policy whose rules the kernel rejected.
const REFUSED_RETRY_PERIOD: Duration = Duration::from_secs(300);

/// Waits for the first policy: until then pods start without rules, and only policies are watched.
async fn await_first_policy(
    config: &Config,
    policies: &Informer<NetworkPolicy>,
    sync: &mut SyncLoop,
    local: &LocalPods,
) {
    let mut local_changes = local.changes();
    sync.synced().await;
    if policies.list().is_empty() {
        // An earlier process may have left rules of policies that were deleted while no agent ran.
        if let Err(error) = nft::remove(&config.table).await {
            tracing::warn!(%error, "failed to remove stale rules of network policies");
        }
    }
    while policies.list().is_empty() {
        local_changes.borrow_and_update();
        local.allow_start(&local.list());
        tokio::select! {
            _ = sync.next() => {}
            _ = local_changes.changed() => {}
        }
    }
}

/// Runs the network policy controller until the process ends. Pods of this node may start once their rules are in the kernel.
pub async fn run(config: Config, informers: Informers, local: LocalPods) {
    let policies = informers.of::<NetworkPolicy>();
    let mut sync = SyncLoop::new(BATCH_PERIOD, Some(RESYNC_PERIOD));
    sync.follow(&policies);
    let mut local_changes = local.changes();
    await_first_policy(&config, &policies, &mut sync, &local).await;
    let (pods, namespaces) = (informers.of::<Pod>(), informers.of::<Namespace>());
    sync.follow_if(
        &pods,
        |change| !matches!(change, Change::Applied { old: Some(old), new } if !plan::affects_rules(old, new)),
    );
    sync.follow_if(
        &namespaces,
        |change| !matches!(change, Change::Applied { old: Some(old), new } if old.metadata.labels == new.metadata.labels),
    );
    sync.synced().await;
    let mut tables: Vec<_> = config.families.iter().map(|family| FamilyRules::new(&config, *family)).collect();
    let recorder = Recorder::new(informers.client().clone(), "network-policy", &config.node_name);
    loop {
        local_changes.borrow_and_update();
        let local_pods = local.list();
        let (policies, pods, namespaces) = (policies.list(), pods.list(), namespaces.list());
        let input = Input { policies: &policies, pods: &pods, namespaces: &namespaces, local: &local_pods };
        let mut unwritten = BTreeSet::new();
        let mut failed = false;
        for rules in &mut tables {
            if let Err(error) = rules.write(&config, input, &recorder).await {
                tracing::error!(%error, "failed to write the rules of network policies; retrying");
                failed = true;
                unwritten.extend(rules.isolated.iter().copied());
            }
        }
        // A pod that no policy selects needn't wait for the rules of others.
        local.allow_start(
            local_pods.iter().filter(|pod| !pod.addresses.iter().any(|address| unwritten.contains(address))),
        );
        if failed {
            sync.back_off().await;
            continue;
        }
        tokio::select! {
            cause = sync.next() => {
                if cause == Cause::Resync {
                    for rules in &mut tables {
                        rules.table_sync.check().await;
                    }
                }
            }
            // Not batched: the start of a pod waits for it.
            _ = local_changes.changed() => {}
        }
    }
}

/// The table of one family.
struct FamilyRules {
    family: Family,
    table_sync: TableSync,
    /// Addresses of this node's isolated pods, as of the last plan.
    isolated: BTreeSet<IpAddr>,
    /// Policies whose rules the kernel rejected, as they were then, and when they are retried.
    refused: Vec<(Arc<NetworkPolicy>, Instant)>,
}

impl FamilyRules {
    fn new(config: &Config, family: Family) -> Self {
        let table_sync = TableSync::new(&FamilySyntax::of(family).table(&config.table), "forward_in");
        FamilyRules { family, table_sync, isolated: BTreeSet::new(), refused: Vec::new() }
    }

    /// Writes the rules. A policy whose rules the kernel rejects allows nothing, and doesn't hold up other policies.
    async fn write(&mut self, config: &Config, input: Input<'_>, recorder: &Recorder) -> Result<(), NftError> {
        let now = Instant::now();
        self.refused.retain(|(old, again)| *again > now && input.policies.iter().any(|new| Arc::ptr_eq(old, new)));
        let wanted = self.plan(config, input);
        self.isolated = plan::isolated_addresses(&wanted);
        match self.table_sync.sync(wanted).await {
            Err(NftError::Refused(_)) => {}
            other => return other,
        }
        // The difference may not fit the kernel's state: retry with the whole table. If that fails, a policy is at fault.
        match self.table_sync.sync(self.plan(config, input)).await {
            Err(NftError::Refused(_)) => {}
            other => return other,
        }
        let name = FamilySyntax::of(self.family).table(&config.table);
        let script = |numbers: &[usize]| {
            let with: Vec<_> = numbers.iter().filter_map(|number| input.policies.get(*number)).collect();
            let allows = |policy: &Arc<NetworkPolicy>| with.iter().any(|one| Arc::ptr_eq(one, policy));
            plan::plan_table(config, self.family, input, allows).full_script(&name)
        };
        for RejectedItem { number, why } in nft::find_rejected(input.policies.len(), script).await? {
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
        self.table_sync.sync(self.plan(config, input)).await
    }

    fn plan(&self, config: &Config, input: Input<'_>) -> Table {
        let allows = |policy: &Arc<NetworkPolicy>| !self.refused.iter().any(|(one, _)| Arc::ptr_eq(one, policy));
        plan::plan_table(config, self.family, input, allows)
    }
}
