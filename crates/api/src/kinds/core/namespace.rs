//! `Namespace`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["ns"],
    selectable: &["status.phase"],
    subresources: &[Subresource::Status, Subresource::Finalize],
    ..Kind::cluster(GROUP, "v1", "Namespace", "namespaces")
};
