//! `PersistentVolume`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["pv"],
    subresources: &[Subresource::Status],
    ..Kind::cluster(GROUP, "v1", "PersistentVolume", "persistentvolumes")
};
