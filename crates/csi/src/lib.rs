//! Client of CSI drivers (Container Storage Interface 1) and of the kubelet's plugin registration (k8s.io/kubelet/pkg/apis/pluginregistration),
//! and the kinds of `snapshot.storage.k8s.io` ([`snapshots`]). [`local_path`] names the built-in driver.

#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod local_path;
pub mod snapshots;

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The generated messages of CSI's Node and Identity services.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("csi.v1");
}

/// The generated messages by which plugins register with a kubelet.
pub mod registration {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("pluginregistration");
}

/// The `type` of CSI drivers in [`registration::PluginInfo`] (upstream's `registerapi.CSIPlugin`).
pub const PLUGIN_TYPE: &str = "CSIPlugin";

/// The name of the VolumeAttachment of a volume and a node, which the kubelet and external attachers compute as well (upstream's
/// `GetCSIAttachmentName`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", pki::sha256_hex(format!("{handle}{driver}{node}").as_bytes()))
}

/// The volume's unique name in a node's `status.volumesInUse` and `status.volumesAttached`.
pub fn unique_volume_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// A channel to a driver's socket. It connects at the first call, and again whenever the connection is lost.
pub fn connect(socket: &Path) -> Channel {
    let socket: PathBuf = socket.into();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // HTTP/2 needs an authority; the name is never resolved.
    Endpoint::from_static("http://driver.invalid").connect_with_connector_lazy(tower::service_fn(connect))
}
