//! `Node`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["no"],
    selectable: &["spec.unschedulable"],
    subresources: &[Subresource::Status, Subresource::NodeProxy],
    ..Kind::cluster(GROUP, "v1", "Node", "nodes")
};
