//! `Job`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    categories: ALL,
    has_generation: true,
    selectable: &["status.successful"],
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v1", "Job", "jobs")
};
