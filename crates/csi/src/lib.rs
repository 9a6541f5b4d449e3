//! Client of CSI drivers (Container Storage Interface 1), and the kinds of `snapshot.storage.k8s.io` ([`snapshots`]). [`local_path`] names the built-in driver.

#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod local_path;
pub mod snapshots;

/// The generated messages of CSI's Node and Identity services.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("csi.v1");
}

/// The name of the VolumeAttachment of a volume and a node, which the kubelet and external attachers compute as well (upstream's
/// `GetCSIAttachmentName`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", pki::sha256_hex(format!("{handle}{driver}{node}").as_bytes()))
}

/// The volume's unique name in a node's `status.volumesInUse` and `status.volumesAttached`.
pub fn unique_volume_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}
