//! `NetworkPolicy`.

use super::GROUP;
use crate::kinds::Kind;

pub static KIND: Kind = Kind {
    short_names: &["netpol"],
    has_generation: true,
    ..Kind::namespaced(GROUP, "v1", "NetworkPolicy", "networkpolicies")
};
