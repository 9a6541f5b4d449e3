//! Kinds of `resource.k8s.io`.

pub(crate) mod device_class;
pub(crate) mod resource_claim;
pub(crate) mod resource_claim_template;
pub(crate) mod resource_slice;

const GROUP: &str = "resource.k8s.io";

table! {
    DEVICE_CLASSES = device_class;
    RESOURCE_CLAIMS = resource_claim;
    RESOURCE_CLAIM_TEMPLATES = resource_claim_template;
    RESOURCE_SLICES = resource_slice;
}
