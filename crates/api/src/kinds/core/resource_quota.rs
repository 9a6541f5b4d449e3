//! `ResourceQuota`.

use super::GROUP;
use crate::kinds::{Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v1", "ResourceQuota", "resourcequotas")
};
