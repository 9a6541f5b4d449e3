//! Kinds of `coordination.k8s.io`.

pub(crate) mod lease;

const GROUP: &str = "coordination.k8s.io";

table! {
    LEASES = lease;
}
