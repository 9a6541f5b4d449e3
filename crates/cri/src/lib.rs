//! Container runtimes of others (containerd, CRI-O): what a kubelet says to them, the Container Runtime Interface v1.
//!
//! This crate knows the words and the way to the socket; what pods need is the kubelet's to say.

use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint};

/// The messages and calls of CRI v1.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("runtime.v1");
}

pub type Runtime = v1::runtime_service_client::RuntimeServiceClient<Channel>;
pub type Images = v1::image_service_client::ImageServiceClient<Channel>;

/// Bytes of one answer; lists of a node with many containers are longer than what is the default (4 MiB).
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{0:?} names no socket: it must be like unix:///run/containerd/containerd.sock")]
    Malformed(String),
    #[error("{0} can't be connected to")]
    Unusable(String, #[source] tonic::transport::Error),
}

/// The socket that an endpoint names: a URL of the scheme `unix`, or a path.
///
/// # Errors
/// When it is neither.
pub fn socket(endpoint: &str) -> Result<PathBuf, EndpointError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() { Ok(path.into()) } else { Err(EndpointError::Malformed(endpoint.into())) }
}

/// The two services at a socket. They are connected to at the first call, and again whenever the connection broke.
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
