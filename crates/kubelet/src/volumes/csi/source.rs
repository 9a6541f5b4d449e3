//! CSI volumes as the requests to their drivers have them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::csi::v1::VolumeCapability;
use ::csi::v1::volume_capability::access_mode::Mode;
use ::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use k8s_openapi::api::core::v1::{LocalObjectReference, PersistentVolume, Pod, SecretReference, Volume};
use kube::ResourceExt as _;

use super::Driver;
use crate::config::Config;

/// A volume, as far as its driver has to know it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub(super) driver: String,
    pub(super) handle: String,
    /// The PersistentVolume's name; of a volume in a pod's own spec, that.
    pub(super) name: String,
    /// It is made for the pod and goes with it (KEP-596).
    pub(super) ephemeral: bool,
    pub(super) block: bool,
    pub(super) read_only: bool,
    pub(super) fs_type: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) access_mode: String,
    pub(super) mount_options: Vec<String>,
    pub(super) stage_secret: Option<SecretReference>,
    pub(super) publish_secret: Option<SecretReference>,
    pub(super) expand_secret: Option<SecretReference>,
}

impl Source {
    /// Of a PersistentVolume, if it is a driver's.
    pub fn of(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.clone()?;
        let csi = spec.csi?;
        Some(Source {
            driver: csi.driver,
            handle: csi.volume_handle,
            name: volume.name_any(),
            ephemeral: false,
            block: spec.volume_mode.as_deref() == Some("Block"),
            read_only: read_only || csi.read_only.unwrap_or(false),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            access_mode: spec.access_modes.into_iter().flatten().next().unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            stage_secret: csi.node_stage_secret_ref,
            publish_secret: csi.node_publish_secret_ref,
            expand_secret: csi.node_expand_secret_ref,
        })
    }

    /// Of a volume in a pod's own spec.
    pub fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let csi = volume.csi.clone()?;
        let whose = format!("{}{}", pod.uid().unwrap_or_default(), volume.name);
        let secret = |r: LocalObjectReference| SecretReference { name: Some(r.name), namespace: pod.namespace() };
        Some(Source {
            driver: csi.driver,
            handle: format!("csi-{}", pki::sha256_hex(whose.as_bytes())),
            name: volume.name.clone(),
            ephemeral: true,
            read_only: csi.read_only.unwrap_or(false),
            fs_type: csi.fs_type.unwrap_or_default(),
            attributes: csi.volume_attributes.unwrap_or_default(),
            access_mode: "ReadWriteOnce".into(),
            publish_secret: csi.node_publish_secret_ref.map(secret),
            ..Source::default()
        })
    }

    /// Where it is staged: the same for all pods.
    pub(super) fn staged(&self, config: &Config) -> PathBuf {
        let plugins = config.plugins_dir().join("kubernetes.io/csi");
        if self.block {
            return plugins.join("volumeDevices/staging").join(&self.name);
        }
        plugins.join(&self.driver).join(pki::sha256_hex(self.handle.as_bytes())).join("globalmount")
    }

    /// Where a pod gets it.
    pub(super) fn target(&self, config: &Config, uid: &str) -> PathBuf {
        if self.block {
            let devices = config.plugins_dir().join("kubernetes.io/csi/volumeDevices/publish");
            return devices.join(&self.name).join(uid);
        }
        config.published_dir(uid).join("volumes/kubernetes.io~csi").join(&self.name).join("mount")
    }

    fn mode(&self, driver: &Driver) -> Mode {
        match (self.access_mode.as_str(), driver.capabilities.single_node) {
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            (_, true) => Mode::SingleNodeMultiWriter,
            (_, false) => Mode::SingleNodeWriter,
        }
    }

    pub(super) fn capability(&self, driver: &Driver, group: Option<i64>) -> VolumeCapability {
        let access = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
            })
        };
        let mode = AccessMode { mode: self.mode(driver).into() };
        VolumeCapability { access_type: Some(access), access_mode: Some(mode) }
    }

    /// Whether the agent gives the volume to the pod's `fsGroup` (KEP-1682).
    pub(super) fn takes_group(&self, policy: Option<&str>) -> bool {
        let once = matches!(self.access_mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
        match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "File" => !self.read_only,
            "None" => false,
            _ => !self.read_only && once && !self.fs_type.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_given_as_the_driver_says() {
        let source = |mode: &str, fs_type: &str, read_only: bool| Source {
            access_mode: mode.into(),
            fs_type: fs_type.into(),
            read_only,
            ..Source::default()
        };
        let plain = source("ReadWriteOnce", "ext4", false);
        assert!(plain.takes_group(None) && plain.takes_group(Some("File")) && !plain.takes_group(Some("None")));
        assert!(!source("ReadWriteOnce", "", false).takes_group(None));
        assert!(!source("ReadWriteMany", "ext4", false).takes_group(None));
        assert!(source("ReadWriteMany", "", false).takes_group(Some("File")));
        assert!(!source("ReadWriteOnce", "ext4", true).takes_group(Some("File")));
    }

    #[test]
    fn a_volume_is_staged_once_and_published_once_for_a_pod() {
        let config = |text: &str| PathBuf::from(text);
        let spec = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
        let volume: PersistentVolume = serde_json::from_value(spec).unwrap();
        let source = Source::of(&volume, false).unwrap();
        let config = Config { kubelet_dir: config("/k"), ..crate::config::tests::config() };
        let hash = pki::sha256_hex(b"h");
        let staged = format!("/k/plugins/kubernetes.io/csi/d/{hash}/globalmount");
        assert_eq!(source.staged(&config), PathBuf::from(staged));
        assert_eq!(source.target(&config, "u"), config.kubelet_dir.join("pods/u/volumes/kubernetes.io~csi/pv/mount"));
        let block = Source { block: true, ..source };
        let devices = config.kubelet_dir.join("plugins/kubernetes.io/csi/volumeDevices");
        assert_eq!(block.staged(&config), devices.join("staging/pv"));
        assert_eq!(block.target(&config, "u"), devices.join("publish/pv/u"));
    }
}
