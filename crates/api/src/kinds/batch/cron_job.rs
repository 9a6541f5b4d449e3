//! `CronJob`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["cj"],
    categories: ALL,
    has_generation: true,
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v1", "CronJob", "cronjobs")
};
