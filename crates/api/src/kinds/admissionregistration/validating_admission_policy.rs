//! `ValidatingAdmissionPolicy`.

use super::GROUP;
use crate::kinds::{API_EXTENSIONS, Kind, Subresource};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    has_generation: true,
    subresources: &[Subresource::Status],
    ..Kind::cluster(GROUP, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
};
