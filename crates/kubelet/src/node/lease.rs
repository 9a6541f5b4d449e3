//! The node's lease, its heartbeat (KEP-589).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::config::Config;

/// How often the lease is renewed.
pub const RENEW_PERIOD: Duration = Duration::from_secs(10);
/// The lease's own duration, in seconds: the node counts as lost after four renewals that didn't come.
const LEASE_DURATION_SECONDS: u32 = 40;
/// How long a renewal may take before another is tried, as upstream's kubelet has it.
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a lease isn't renewed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API refuses.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The API doesn't answer.
    #[error("no answer within {RENEW_TIMEOUT:?}")]
    Timeout,
}

/// Renews the node's lease, which is made if it isn't there.
///
/// # Errors
/// When the API refuses or doesn't answer in time.
pub async fn renew(config: &Config, client: &Client) -> Result<(), LeaseError> {
    tokio::time::timeout(RENEW_TIMEOUT, write(config, client)).await.map_err(|_| LeaseError::Timeout)??;
    Ok(())
}

async fn write(config: &Config, client: &Client) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": config.node_name},
        "spec": {"holderIdentity": config.node_name, "leaseDurationSeconds": LEASE_DURATION_SECONDS, "renewTime": now}});
    match leases.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(&lease)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let object = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &object).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
