//! `HorizontalPodAutoscaler`.

pub mod v1;

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["hpa"],
    categories: ALL,
    subresources: &[Subresource::Status],
    ..Kind::namespaced(GROUP, "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
};
