//! `APIService`.

use super::GROUP;
use crate::kinds::{API_EXTENSIONS, Kind, Subresource};

pub static KIND: Kind = Kind {
    categories: API_EXTENSIONS,
    subresources: &[Subresource::Status],
    ..Kind::cluster(GROUP, "v1", "APIService", "apiservices")
};
