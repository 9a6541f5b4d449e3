//! What a kubelet and the plugins of its node say to each other, all by gRPC on sockets of the machine: [`registration`] of plugins,
//! [`deviceplugin`] and [`dra`], and [`podresources`] for those who look on; and [`cdi`], the files by which vendors say what a device is made of.

#![warn(missing_docs)]

pub mod cdi;

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The generated messages by which plugins register with a kubelet (`k8s.io/kubelet/pkg/apis/pluginregistration/v1`).
pub mod registration {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("pluginregistration");
}

/// The generated messages of the device plugin API (`k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1`).
pub mod deviceplugin {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("v1beta1");
    /// The version of the API, as plugins name it.
    pub const VERSION: &str = "v1beta1";
    /// The health of a device that may be allocated.
    pub const HEALTHY: &str = "Healthy";
}

/// The generated messages of the pod resources API (`k8s.io/kubelet/pkg/apis/podresources/v1`).
pub mod podresources {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("v1");
}

/// The generated messages by which drivers prepare devices of claims (`k8s.io/kubelet/pkg/apis/dra/v1`).
pub mod dra {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
    /// The service, as drivers name it among the versions that they speak (upstream's `DRAPluginService`).
    pub const SERVICE: &str = "v1.DRAPlugin";
}

/// The `type` of storage drivers in [`registration::PluginInfo`] (upstream's `registerapi.CSIPlugin`).
pub const CSI_PLUGIN: &str = "CSIPlugin";
/// The `type` of device plugins in [`registration::PluginInfo`] (upstream's `registerapi.DevicePlugin`).
pub const DEVICE_PLUGIN: &str = "DevicePlugin";

/// The `type` of drivers of claims' devices in [`registration::PluginInfo`] (upstream's `registerapi.DRAPlugin`).
pub const DRA_PLUGIN: &str = "DRAPlugin";

/// A channel to a plugin's socket. It connects at the first call, and again whenever the connection is lost.
pub fn connect(socket: &Path) -> Channel {
    let socket: PathBuf = socket.into();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // HTTP/2 needs an authority; the name is never resolved.
    Endpoint::from_static("http://plugin.invalid").connect_with_connector_lazy(tower::service_fn(connect))
}
