//! `ResourceSlice`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind {
    has_generation: true,
    selectable: &["spec.nodeName", "spec.driver"],
    ..Kind::cluster(GROUP, "v1", "ResourceSlice", "resourceslices")
};
