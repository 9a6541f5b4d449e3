//! Drivers of claims' devices, as the node's plugins are told of them. What a driver that has left offered is deleted from the API after a while:
//! nobody could use it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::plugins::dra::SERVICE;
use ::plugins::dra::dra_plugin_client::DraPluginClient;
use ::plugins::registration::PluginInfo;
use async_trait::async_trait;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::ClaimManager;
use crate::plugins::{PluginHandler, RegistrationError};

/// How long a driver may be away, as in an update of it, before its slices are deleted (upstream's `wipingDelay`).
const WIPING_DELAY: Duration = Duration::from_secs(30);

#[async_trait]
impl PluginHandler for ClaimManager {
    fn plugin_type(&self) -> &'static str {
        ::plugins::DRA_PLUGIN
    }

    async fn register(self: Arc<Self>, info: &PluginInfo, endpoint: &Path) -> Result<(), RegistrationError> {
        if !info.supported_versions.iter().any(|version| version == SERVICE) {
            return Err(RegistrationError::Refused(format!(
                "none of services supported by the plugin ({:.256?}) are supported by the kubelet ([{SERVICE:?}])",
                info.supported_versions
            )));
        }
        let driver = DraPluginClient::new(::plugins::connect(endpoint));
        self.wiping.lock().remove(&info.name).inspect(CancellationToken::cancel);
        self.drivers.lock().insert(info.name.clone(), driver);
        tracing::info!(driver = info.name, "DRA driver registered");
        Ok(())
    }

    async fn deregister(&self, name: &str) {
        self.drivers.lock().remove(name);
        tracing::info!(driver = name, "DRA driver unregistered");
        let again = CancellationToken::new();
        self.wiping.lock().insert(name.into(), again.clone());
        let (client, node, name) = (self.client.clone(), self.node_name.clone(), name.to_string());
        tasks::spawn("wipe-resource-slices", async move {
            tokio::select! {
                () = again.cancelled() => {}
                () = tokio::time::sleep(WIPING_DELAY) => wipe(client, &node, &name).await,
            }
        });
    }
}

impl ClaimManager {
    /// Deletes what drivers offered that were here when the machine or the kubelet ended, and haven't come back.
    pub async fn wipe_stale(self: Arc<Self>) {
        tokio::time::sleep(WIPING_DELAY).await;
        let slices: Api<ResourceSlice> = Api::all(self.client.clone());
        let own = ListParams::default().fields(&format!("spec.nodeName={}", self.node_name));
        let found = match slices.list(&own).await {
            Ok(found) => found.items,
            Err(error) => return tracing::warn!(%error, "failed to list the ResourceSlices of this node"),
        };
        let drivers: BTreeSet<String> = found.into_iter().map(|slice| slice.spec.driver).collect();
        for driver in drivers {
            if self.driver(&driver).is_err() {
                wipe(self.client.clone(), &self.node_name, &driver).await;
            }
        }
    }
}

/// Deletes the slices of a driver on this node.
async fn wipe(client: kube::Client, node: &str, driver: &str) {
    let slices: Api<ResourceSlice> = Api::all(client);
    let own = ListParams::default().fields(&format!("spec.nodeName={node},spec.driver={driver}"));
    let deleted = async {
        for slice in slices.list_metadata(&own).await?.items {
            match slices.delete(&slice.name_any(), &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other.map(|_| ())?,
            }
        }
        Ok::<(), kube::Error>(())
    };
    if let Err(error) = deleted.await {
        tracing::warn!(driver, %error, "failed to delete the ResourceSlices of a driver that has left");
    }
}
