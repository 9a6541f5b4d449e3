//! Events about the containers of a pod.

use informer::Recorder;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource as _;

/// Records events whose `involvedObject.fieldPath` names a container.
pub trait ContainerEvents {
    /// Records an event of type `kind` (`Normal` or `Warning`) about one container of `pod`.
    fn container(&self, pod: &Pod, container: &str, kind: &'static str, reason: &str, message: impl Into<String>);
}

impl ContainerEvents for Recorder {
    fn container(&self, pod: &Pod, container: &str, kind: &'static str, reason: &str, message: impl Into<String>) {
        let spec = pod.spec.as_ref();
        let is_init = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == container);
        let is_ephemeral =
            spec.into_iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).any(|c| c.name == container);
        let list = match (is_init, is_ephemeral) {
            (true, _) => "initContainers",
            (_, true) => "ephemeralContainers",
            _ => "containers",
        };
        let mut object = pod.object_ref(&());
        object.field_path = Some(format!("spec.{list}{{{container}}}"));
        self.record(object, kind, reason, message.into());
    }
}
