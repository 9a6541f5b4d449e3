//! `PriorityLevelConfiguration`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    has_generation: true,
    subresources: &[Subresource::Status],
    ..Kind::cluster(GROUP, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
};
