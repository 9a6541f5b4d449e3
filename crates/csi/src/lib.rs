//! Storage drivers: what a kubelet and a driver say to each other (CSI, the plugin registration of Kubernetes), and the kinds by
//! which users ask drivers for snapshots ([`snapshots`]). [`local_path`] is the driver that is built in.

pub mod local_path;
pub mod snapshots;

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The Node service of CSI 1.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("csi.v1");
}

/// How plugins make themselves known to a kubelet.
pub mod registration {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("pluginregistration");
}

/// The `type` of storage drivers in [`registration::PluginInfo`].
pub const PLUGIN: &str = "CSIPlugin";

/// The name by which everybody finds the attachment of a volume to a node (the kubelet and the attachers among them).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", pki::sha256_hex(format!("{handle}{driver}{node}").as_bytes()))
}

/// A volume as a node's `status.volumesInUse` names it.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// A connection to a driver's socket. It is made at the first call, and again whenever it broke.
pub fn connection(socket: &Path) -> Channel {
    let socket: PathBuf = socket.into();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // The name is never looked up; HTTP/2 wants one.
    Endpoint::from_static("http://driver.invalid").connect_with_connector_lazy(tower::service_fn(connect))
}
