//! Kinds of `discovery.k8s.io`.

pub(crate) mod endpoint_slice;

const GROUP: &str = "discovery.k8s.io";

table! {
    ENDPOINT_SLICES = endpoint_slice;
}
