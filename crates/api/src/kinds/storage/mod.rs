//! Kinds of `storage.k8s.io`.

pub(crate) mod csi_driver;
pub(crate) mod csi_node;
pub(crate) mod csi_storage_capacity;
pub(crate) mod storage_class;
pub(crate) mod volume_attachment;
pub(crate) mod volume_attributes_class;

const GROUP: &str = "storage.k8s.io";

table! {
    CSI_DRIVERS = csi_driver;
    CSI_NODES = csi_node;
    CSI_STORAGE_CAPACITIES = csi_storage_capacity;
    STORAGE_CLASSES = storage_class;
    VOLUME_ATTACHMENTS = volume_attachment;
    VOLUME_ATTRIBUTES_CLASSES = volume_attributes_class;
}
