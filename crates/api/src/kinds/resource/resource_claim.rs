//! `ResourceClaim`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind =
    Kind { subresources: &[Subresource::Status], ..Kind::namespaced(GROUP, "v1", "ResourceClaim", "resourceclaims") };
