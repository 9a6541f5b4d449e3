//! `Service`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

pub static KIND: Kind = Kind {
    short_names: &["svc"],
    categories: ALL,
    selectable: &["spec.clusterIP", "spec.type"],
    subresources: &[Subresource::Status, Subresource::ServiceProxy],
    ..Kind::namespaced(GROUP, "v1", "Service", "services")
};
