//! `PersistentVolumeClaim`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["pvc"],
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
};
