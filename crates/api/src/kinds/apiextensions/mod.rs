//! Kinds of `apiextensions.k8s.io`.

pub(crate) mod custom_resource_definition;

const GROUP: &str = "apiextensions.k8s.io";

table! {
    CUSTOM_RESOURCE_DEFINITIONS = custom_resource_definition;
}
