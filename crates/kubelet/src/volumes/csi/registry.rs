//! Registration of drivers (Kubernetes' plugin registration): each has a socket in a folder, and answers for its name. What a
//! driver says of this node goes to the API: the node's CSINode, an annotation, and labels for where volumes can be reached.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::csi::registration::registration_client::RegistrationClient;
use ::csi::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use ::csi::v1::node_client::NodeClient;
use ::csi::v1::node_service_capability::Type;
use ::csi::v1::node_service_capability::rpc::Type as Capability;
use ::csi::v1::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse};
use apimachinery::{Backoff, ExponentialBackoff};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use runtime::files;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Capabilities, Csi, Driver};

/// The annotation with the ids that drivers have for this node, for their sidecars.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Back-off of the registration of a driver.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a driver isn't registered.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it doesn't answer")]
    Timeout,
    /// The registration service of the socket refuses.
    #[error("{0}")]
    Plugin(String),
    #[error("plugins of type {0:?} aren't served by this version of timonel")]
    UnknownType(String),
    #[error("driver {driver} speaks {versions:?}, and none of these is CSI 1")]
    Version { driver: String, versions: Vec<String> },
    /// The driver's own service refuses.
    #[error("driver {driver}: {message}")]
    Driver { driver: String, message: String },
    #[error("driver {driver} sees this node at {sees}, but it is labelled {label}")]
    Topology { driver: String, sees: String, label: String },
}

/// A socket that was seen. One that was made anew under the same name is another driver.
struct Socket {
    inode: u64,
    /// Of its driver, once that has said it.
    name: Option<String>,
    again: Instant,
    backoff: Backoff,
}

fn sockets(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let socket = |entry: std::fs::DirEntry| {
        let meta = std::fs::metadata(entry.path()).ok()?;
        meta.file_type().is_socket().then(|| (entry.path(), meta.ino()))
    };
    entries.filter_map(socket).collect()
}

/// Keeps the list of drivers true.
pub async fn run(csi: Arc<Csi>) {
    let folder = csi.config.registry_dir();
    if let Err(error) = prepare(&csi) {
        tracing::warn!(%error, folder = %csi.config.kubelet_dir.display(), "failed to watch for CSI drivers; this node serves none");
        return;
    }
    if let Err(error) = update_csi_node(&csi, |_| false).await {
        tracing::warn!(%error, "failed to create the CSINode of this node");
    }
    let mut news = files::watch(&folder, files::Kind::Sockets);
    let mut seen: BTreeMap<PathBuf, Socket> = BTreeMap::new();
    loop {
        let present = sockets(&folder);
        let gone: Vec<PathBuf> = seen
            .iter()
            .filter(|(path, seen)| present.get(*path) != Some(&seen.inode))
            .map(|(p, _)| p.clone())
            .collect();
        let left: Vec<String> = gone.iter().filter_map(|path| seen.remove(path)?.name).collect();
        for name in left {
            // Its new socket may be there already.
            if !seen.values().any(|other| other.name.as_ref() == Some(&name)) {
                deregister(&csi, &name).await;
            }
        }
        for (path, inode) in present {
            let new = || Socket { inode, name: None, again: Instant::now(), backoff: Backoff::new(BACKOFF) };
            let seen = seen.entry(path.clone()).or_insert_with(new);
            if seen.name.is_some() || seen.again > Instant::now() {
                continue;
            }
            match tokio::time::timeout(CALL_TIMEOUT, register(&csi, &path))
                .await
                .unwrap_or(Err(RegistrationError::Timeout))
            {
                Ok(name) => seen.name = Some(name),
                Err(error) => {
                    tracing::warn!(socket = %path.display(), %error, "failed to register a kubelet plugin; retrying");
                    seen.again = Instant::now() + seen.backoff.failed();
                }
            }
        }
        let next = seen.values().filter(|s| s.name.is_none()).map(|s| s.again).min();
        tokio::select! {
            more = news.recv() => if more.is_none() { return },
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// The folders that drivers expect, so mounted that what is mounted in a driver's container is seen outside.
fn prepare(csi: &Csi) -> std::io::Result<()> {
    for folder in [csi.config.registry_dir(), csi.config.plugins_dir(), csi.config.kubelet_dir.join("pods")] {
        std::fs::create_dir_all(folder)?;
    }
    // Pods' mounts are hidden from other users.
    std::fs::set_permissions(&csi.config.kubelet_dir, std::fs::Permissions::from_mode(0o750))?;
    runtime::rootfs::share(&csi.config.kubelet_dir)
}

/// Asks the driver of a socket for its name, and registers it.
async fn register(csi: &Csi, socket: &Path) -> Result<String, RegistrationError> {
    let said = |status: tonic::Status| RegistrationError::Plugin(status.message().into());
    let mut registration = RegistrationClient::new(::csi::connect(socket));
    let info = registration.get_info(InfoRequest {}).await.map_err(said)?.into_inner();
    let joined = register_driver(csi, &info, socket).await;
    let status = RegistrationStatus {
        plugin_registered: joined.is_ok(),
        error: joined.as_ref().err().map(ToString::to_string).unwrap_or_default(),
    };
    registration.notify_registration_status(status).await.map_err(said)?;
    joined.map(|()| info.name)
}

async fn register_driver(csi: &Csi, info: &PluginInfo, socket: &Path) -> Result<(), RegistrationError> {
    if info.r#type != ::csi::PLUGIN_TYPE {
        return Err(RegistrationError::UnknownType(info.r#type.clone()));
    }
    if !info.supported_versions.iter().any(|v| v.trim_start_matches('v').starts_with("1.") || v == "v1") {
        let (driver, versions) = (info.name.clone(), info.supported_versions.clone());
        return Err(RegistrationError::Version { driver, versions });
    }
    let endpoint = if info.endpoint.is_empty() { socket.into() } else { PathBuf::from(&info.endpoint) };
    let failed = |status: tonic::Status| RegistrationError::Driver {
        driver: info.name.clone(),
        message: status.message().into(),
    };
    let mut node = NodeClient::new(::csi::connect(&endpoint));
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

async fn deregister(csi: &Csi, name: &str) {
    tracing::info!(driver = name, "CSI driver unregistered");
    csi.drivers.known.lock().remove(name);
    let without = |drivers: &mut Vec<CSINodeDriver>| {
        let before = drivers.len();
        drivers.retain(|d| d.name != name);
        drivers.len() != before
    };
    if let Err(error) = update_csi_node(csi, without).await {
        tracing::warn!(driver = name, %error, "failed to remove an unregistered driver from the CSINode");
    }
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
async fn update_csi_node(csi: &Csi, change: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), RegistrationError> {
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
async fn label_node(csi: &Csi, driver: &str, own: &NodeGetInfoResponse) -> Result<(), RegistrationError> {
    let api: Api<Node> = Api::all(csi.client.clone());
    let name = &csi.config.node_name;
    let node = api.get(name).await?;
    let segments = own.accessible_topology.as_ref().map(|t| &t.segments);
    for (key, value) in segments.into_iter().flatten() {
        if let Some(other) = node.labels().get(key).filter(|present| *present != value) {
            return Err(RegistrationError::Topology {
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
