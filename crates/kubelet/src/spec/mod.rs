//! What a pod's spec means, whichever runtime runs it. Pure.

pub mod dns;
pub mod hosts;
pub mod names;
pub mod resources;

use api::static_pods::MIRROR;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt as _;

/// A pod's ephemeral containers as plain ones; what makes them special isn't among a container's fields.
pub fn ephemeral(pod: &Pod) -> Vec<Container> {
    let all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    all.filter_map(|c| serde_json::from_value(serde_json::to_value(c).ok()?).ok()).collect()
}

/// The containers that a pod is started with, init containers and sidecars among them. "All containers" are these, and
/// mostly the ephemeral ones, too.
pub fn started(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Whether an init container is one that runs beside the main containers (KEP-753).
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// Whether a pod comes from a manifest of this node. A pod that comes from the API has a version, whatever its annotations say.
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.resource_version.is_none()
}

/// Whether a pod of the API is the mirror of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotations().contains_key(MIRROR)
}
