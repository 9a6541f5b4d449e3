//! `ReplicationController`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["rc"],
    categories: ALL,
    has_generation: true,
    selectable: &["status.replicas"],
    subresources: &[Subresource::Status, Subresource::Scale],
    ..Kind::namespaced(GROUP, "v1", "ReplicationController", "replicationcontrollers")
};
