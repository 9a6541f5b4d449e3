//! `ResourceSlice`: the devices of a node.

use super::GROUP;
use crate::defaults::spec;
use crate::kinds::{Kind, Strategy};

pub static KIND: Kind = Kind {
    has_generation: true,
    selectable: &["spec.nodeName", "spec.driver"],
    strategy: Strategy {
        defaults: |object| {
            spec(object);
        },
        ..Strategy::PLAIN
    },
    ..Kind::cluster(GROUP, "v1", "ResourceSlice", "resourceslices")
};
