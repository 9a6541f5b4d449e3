//! Registration of drivers, which are plugins of the node ([`crate::plugins`]). What a driver says of this node goes to the API: the node's
//! CSINode, an annotation, and labels for where volumes can be reached.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::csi::v1::node_client::NodeClient;
use ::csi::v1::node_service_capability::Type;
use ::csi::v1::node_service_capability::rpc::Type as Capability;
use ::csi::v1::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse};
use ::plugins::registration::PluginInfo;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::{Capabilities, Csi, Driver};
use crate::plugins::{PluginHandler, RegistrationError};

/// The annotation with the ids that drivers have for this node, for their sidecars.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// Why a driver isn't registered.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("driver {driver} speaks {versions:?}, and none of these is CSI 1")]
    Version { driver: String, versions: Vec<String> },
    /// The driver's own service refuses.
    #[error("driver {driver}: {message}")]
    Driver { driver: String, message: String },
    #[error("driver {driver} sees this node at {sees}, but it is labelled {label}")]
    Topology { driver: String, sees: String, label: String },
}

/// Storage drivers, as the node's plugins are told of them.
#[async_trait]
impl PluginHandler for Csi {
    fn plugin_type(&self) -> &'static str {
        ::plugins::CSI_PLUGIN
    }

    async fn register(self: Arc<Self>, info: &PluginInfo, endpoint: &Path) -> Result<(), RegistrationError> {
        register_driver(&self, info, endpoint).await.map_err(|error| RegistrationError::Refused(error.to_string()))
    }

    async fn deregister(&self, name: &str) {
        tracing::info!(driver = name, "CSI driver unregistered");
        self.drivers.known.lock().remove(name);
        let without = |drivers: &mut Vec<CSINodeDriver>| {
            let before = drivers.len();
            drivers.retain(|d| d.name != name);
            drivers.len() != before
        };
        if let Err(error) = update_csi_node(self, without).await {
            tracing::warn!(driver = name, %error, "failed to remove an unregistered driver from the CSINode");
        }
    }
}

/// Writes the node's CSINode, which names no drivers yet.
pub async fn create_csi_node(csi: &Csi) {
    if let Err(error) = update_csi_node(csi, |_| false).await {
        tracing::warn!(%error, "failed to create the CSINode of this node");
    }
}

async fn register_driver(csi: &Csi, info: &PluginInfo, endpoint: &Path) -> Result<(), DriverError> {
    if !info.supported_versions.iter().any(|v| v.trim_start_matches('v').starts_with("1.") || v == "v1") {
        let (driver, versions) = (info.name.clone(), info.supported_versions.clone());
        return Err(DriverError::Version { driver, versions });
    }
    let failed =
        |status: tonic::Status| DriverError::Driver { driver: info.name.clone(), message: status.message().into() };
    let mut node = NodeClient::new(::plugins::connect(endpoint));
    let said = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.map_err(failed)?.into_inner();
    let own = node.node_get_info(NodeGetInfoRequest {}).await.map_err(failed)?.into_inner();
    let can = |capability: Capability| {
        let rpcs = said.capabilities.iter().filter_map(|c| c.r#type.as_ref());
        rpcs.into_iter().any(|Type::Rpc(rpc)| rpc.r#type() == capability)
    };
    let capabilities = Capabilities {
        stage: can(Capability::StageUnstageVolume),
        expand: can(Capability::ExpandVolume),
        mount_group: can(Capability::VolumeMountGroup),
        single_node: can(Capability::SingleNodeMultiWriter),
    };
    label_node(csi, &info.name, &own).await?;
    let entry = entry(&info.name, &own);
    update_csi_node(csi, |drivers| {
        let same = drivers.contains(&entry);
        drivers.retain(|d| d.name != entry.name);
        drivers.push(entry.clone());
        !same
    })
    .await?;
    let driver = Driver { node, capabilities };
    csi.drivers.known.lock().insert(info.name.clone(), driver);
    tracing::info!(driver = info.name, node = own.node_id, "CSI driver registered");
    Ok(())
}

/// A driver as the node's CSINode names it.
pub fn entry(name: &str, own: &NodeGetInfoResponse) -> CSINodeDriver {
    let segments = own.accessible_topology.iter().flat_map(|t| t.segments.keys().cloned());
    let mut keys: Vec<String> = segments.collect();
    keys.sort();
    let count = i32::try_from(own.max_volumes_per_node).ok().filter(|n| *n > 0);
    CSINodeDriver {
        name: name.into(),
        node_id: own.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// Changes the list of drivers in the node's CSINode, which is made if it isn't there. `change` says whether it did anything.
async fn update_csi_node(csi: &Csi, change: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), DriverError> {
    let api: Api<CSINode> = Api::all(csi.client.clone());
    let name = &csi.config.node_name;
    loop {
        let written = match api.get_opt(name).await? {
            Some(mut present) => {
                if !change(&mut present.spec.drivers) {
                    return Ok(());
                }
                api.replace(name, &PostParams::default(), &present).await
            }
            None => {
                let node = Api::<Node>::all(csi.client.clone()).get(name).await?;
                let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid()});
                let mut drivers = Vec::new();
                change(&mut drivers);
                let new = json!({"metadata": {"name": name, "ownerReferences": [owner]}, "spec": {"drivers": drivers}});
                let new: CSINode = serde_json::from_value(new)?;
                api.create(&PostParams::default(), &new).await
            }
        };
        match written {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
}

/// Says on the Node how the driver calls it, and where the driver sees it.
async fn label_node(csi: &Csi, driver: &str, own: &NodeGetInfoResponse) -> Result<(), DriverError> {
    let api: Api<Node> = Api::all(csi.client.clone());
    let name = &csi.config.node_name;
    let node = api.get(name).await?;
    let segments = own.accessible_topology.as_ref().map(|t| &t.segments);
    for (key, value) in segments.into_iter().flatten() {
        if let Some(other) = node.labels().get(key).filter(|present| *present != value) {
            return Err(DriverError::Topology {
                driver: driver.into(),
                sees: format!("{key}={value}"),
                label: format!("{key}={other}"),
            });
        }
    }
    let ids = node.annotations().get(NODE_IDS).and_then(|text| serde_json::from_str(text).ok());
    let mut ids: BTreeMap<String, Value> = ids.unwrap_or_default();
    ids.insert(driver.into(), own.node_id.as_str().into());
    let ids = serde_json::to_string(&ids)?;
    let patch = json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": segments}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
