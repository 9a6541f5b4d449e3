//! `EndpointSlice`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind =
    Kind { has_generation: true, ..Kind::namespaced(GROUP, "v1", "EndpointSlice", "endpointslices") };
