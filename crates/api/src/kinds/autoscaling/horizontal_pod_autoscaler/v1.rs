//! `HorizontalPodAutoscaler` of `autoscaling/v1`, the older version.

use super::super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["hpa"],
    categories: ALL,
    subresources: &[Subresource::Status],
    kept_as: Some(&super::KIND),
    ..Kind::namespaced(GROUP, "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
};
