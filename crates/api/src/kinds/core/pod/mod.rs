//! `Pod`.

use super::GROUP;
use crate::kinds::{ALL, Kind, Subresource};

const FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

pub static KIND: Kind = Kind {
    short_names: &["po"],
    categories: ALL,
    has_generation: true,
    selectable: FIELDS,
    subresources: &[
        Subresource::Status,
        Subresource::Attach,
        Subresource::Binding,
        Subresource::EphemeralContainers,
        Subresource::Resize,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Log,
        Subresource::PortForward,
        Subresource::PodProxy,
    ],
    ..Kind::namespaced(GROUP, "v1", "Pod", "pods")
};
