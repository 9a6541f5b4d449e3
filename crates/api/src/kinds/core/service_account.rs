//! `ServiceAccount`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    ..Kind::namespaced(GROUP, "v1", "ServiceAccount", "serviceaccounts")
};
