//! What the control plane and nodes say to each other of volumes that are folders of a node.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt as _;

/// The provisioner of such volumes, and the driver of their snapshots.
pub const PROVISIONER: &str = "timonel.io/local-path";
/// Held by a volume until its node has removed the folder.
pub const FINALIZER: &str = PROVISIONER;
/// Annotation of a volume, and label of a snapshot's content: the node that has it.
pub const NODE: &str = "timonel.io/node";
/// Annotation of a volume that its node is to fill before use: [`Origin`].
pub const FILL_FROM: &str = "timonel.io/fill-from";

/// Whether a volume was made by this provisioner.
pub fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotations().get("pv.kubernetes.io/provisioned-by").map(String::as_str) == Some(PROVISIONER)
}

/// The node that has a volume of this provisioner.
pub fn node_of(volume: &PersistentVolume) -> Option<&String> {
    volume.annotations().get(NODE).filter(|_| is_ours(volume))
}

/// What a new volume begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The name of a snapshot on the node.
    Snapshot(String),
    /// The name of a PersistentVolume of the node.
    Volume(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Snapshot(name) => write!(to, "snapshot/{name}"),
            Origin::Volume(name) => write!(to, "volume/{name}"),
        }
    }
}

impl std::str::FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some(("snapshot", name)) if is_name(name) => Ok(Origin::Snapshot(name.into())),
            Some(("volume", name)) if is_name(name) => Ok(Origin::Volume(name.into())),
            _ => Err(format!("{text:?} is neither snapshot/NAME nor volume/NAME")),
        }
    }
}

/// The handle of a snapshot: the node that has it, and its name there.
pub fn handle(node: &str, name: &str) -> String {
    format!("{node}/{name}")
}

/// Node and name of a handle.
pub fn parts(handle: &str) -> Option<(&str, &str)> {
    handle.split_once('/').filter(|(node, name)| !node.is_empty() && is_name(name))
}

/// Whether it is one step of a path, and no way out of a folder.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(parts("node/snap"), Some(("node", "snap")));
        for bad in ["node", "node/", "/snap", "node/..", "node/a/b", "node/../x"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        for origin in [Origin::Snapshot("a".into()), Origin::Volume("b".into())] {
            assert_eq!(origin.to_string().parse(), Ok(origin));
        }
        assert!("snapshot/../../etc".parse::<Origin>().is_err());
        assert!("other/x".parse::<Origin>().is_err());
    }
}
