//! Client of the Container Runtime Interface v1 (k8s.io/cri-api), for containerd, CRI-O and other runtimes.
//!
//! This crate has the generated messages and opens the socket; the kubelet decides what to request.

#![warn(missing_docs, clippy::missing_errors_doc)]

use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint};

/// The generated messages and services of CRI v1.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("runtime.v1");
}

/// Client of `runtime.v1.RuntimeService`.
pub type Runtime = v1::runtime_service_client::RuntimeServiceClient<Channel>;
/// Client of `runtime.v1.ImageService`.
pub type Images = v1::image_service_client::ImageServiceClient<Channel>;

/// Bytes of one response; a list of many containers is longer than tonic's default of 4 MiB.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
/// Why a `--container-runtime-endpoint` can't be used.
pub enum EndpointError {
    #[error("{0:?} names no socket: it must be like unix:///run/containerd/containerd.sock")]
    /// It is neither a URL of the scheme `unix` nor an absolute path.
    Malformed(String),
    #[error("can't connect to {0}")]
    /// The path can't stand in a URL.
    Unusable(String, #[source] tonic::transport::Error),
}

/// The socket of a `--container-runtime-endpoint`: a URL of the scheme `unix`, or a path.
///
/// # Errors
/// When it is neither.
pub fn socket(endpoint: &str) -> Result<PathBuf, EndpointError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() { Ok(path.into()) } else { Err(EndpointError::Malformed(endpoint.into())) }
}

/// Clients of both services at a socket. They connect at the first call, and again whenever the connection is lost.
///
/// # Errors
/// When the path can't be that of a socket.
pub fn connect(socket: &Path) -> Result<(Runtime, Images), EndpointError> {
    let path = socket.display().to_string();
    let endpoint = Endpoint::from_shared(format!("unix://{path}")).map_err(|e| EndpointError::Unusable(path, e))?;
    let channel = endpoint.connect_lazy();
    let runtime = Runtime::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok((runtime, Images::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_or_paths() {
        for good in ["unix:///run/crio/crio.sock", "/run/crio/crio.sock"] {
            assert_eq!(socket(good).unwrap(), Path::new("/run/crio/crio.sock"));
        }
        for bad in ["", "crio.sock", "unix://crio.sock", "tcp://127.0.0.1:1"] {
            assert!(socket(bad).unwrap_err().to_string().contains("unix:///run/containerd"), "{bad}");
        }
    }
}
