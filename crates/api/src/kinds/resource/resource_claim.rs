//! `ResourceClaim`: what asks for devices.

use super::{GROUP, default_claim};
use crate::defaults::spec;
use crate::kinds::{Kind, StatusKeeps, Strategy, Subresource};

pub static KIND: Kind = Kind {
    subresources: &[Subresource::Status],
    strategy: Strategy {
        defaults: |object| {
            if let Some(claim) = spec(object) {
                default_claim(claim);
            }
        },
        status_keeps: StatusKeeps::LabelsAndAnnotationsToo,
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "ResourceClaim", "resourceclaims")
};
