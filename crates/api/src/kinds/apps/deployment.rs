//! `Deployment`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["deploy"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status, Subresource::Scale],
    ..Kind::namespaced(GROUP, "v1", "Deployment", "deployments")
};
