//! The built-in `local-path` provisioner, whose volumes are folders of a node: names and annotations by which the control plane and the
//! nodes work together.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt as _;

/// Name of the provisioner in StorageClasses, and of the driver in VolumeSnapshotClasses.
pub const PROVISIONER: &str = "timonel.io/local-path";
/// Finalizer of a PersistentVolume, which its node removes after the folder.
pub const FINALIZER: &str = PROVISIONER;
/// Annotation of a PersistentVolume, and label of a VolumeSnapshotContent: the node that has the data.
pub const NODE_KEY: &str = "timonel.io/node";
/// Annotation of a PersistentVolume whose node has still to copy data into it: a [`ContentSource`].
pub const CONTENT_SOURCE_ANNOTATION: &str = "timonel.io/fill-from";

/// Whether a PersistentVolume was made by this provisioner.
pub fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotations().get("pv.kubernetes.io/provisioned-by").map(String::as_str) == Some(PROVISIONER)
}

/// The node that has a volume of this provisioner.
pub fn node_of(volume: &PersistentVolume) -> Option<&String> {
    volume.annotations().get(NODE_KEY).filter(|_| is_ours(volume))
}

/// The data that a new volume is filled with (CSI's `VolumeContentSource`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentSource {
    /// The name of a snapshot on the node.
    Snapshot(String),
    /// The name of a PersistentVolume of the node.
    Volume(String),
}

impl std::fmt::Display for ContentSource {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContentSource::Snapshot(name) => write!(to, "snapshot/{name}"),
            ContentSource::Volume(name) => write!(to, "volume/{name}"),
        }
    }
}

impl std::str::FromStr for ContentSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some(("snapshot", name)) if is_name(name) => Ok(ContentSource::Snapshot(name.into())),
            Some(("volume", name)) if is_name(name) => Ok(ContentSource::Volume(name.into())),
            _ => Err(format!("{text:?} is neither snapshot/NAME nor volume/NAME")),
        }
    }
}

/// The `snapshotHandle` of a snapshot: the node that has it, and its name there.
pub fn snapshot_handle(node: &str, name: &str) -> String {
    format!("{node}/{name}")
}

/// Node and name of a `snapshotHandle`; none if it is malformed.
pub fn split_snapshot_handle(handle: &str) -> Option<(&str, &str)> {
    handle.split_once('/').filter(|(node, name)| !node.is_empty() && is_name(name))
}

/// Whether it is a single path component, without a way out of the folder.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(split_snapshot_handle("node/snap"), Some(("node", "snap")));
        for bad in ["node", "node/", "/snap", "node/..", "node/a/b", "node/../x"] {
            assert_eq!(split_snapshot_handle(bad), None, "{bad}");
        }
        for origin in [ContentSource::Snapshot("a".into()), ContentSource::Volume("b".into())] {
            assert_eq!(origin.to_string().parse(), Ok(origin));
        }
        assert!("snapshot/../../etc".parse::<ContentSource>().is_err());
        assert!("other/x".parse::<ContentSource>().is_err());
    }
}
