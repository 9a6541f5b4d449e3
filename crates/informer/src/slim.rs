//! What shared caches leave out of pods. A pod has some eighteen kilobytes in memory, most of it for what only its
//! kubelet reads; control loops hold all pods of the cluster.

use std::any::Any;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Takes out of a pod what no control loop reads: how its containers start and are probed, and the volumes that are no
/// claims. Other kinds stay as they are.
pub fn trim(object: &mut dyn Any) {
    let Some(pod) = object.downcast_mut::<Pod>() else { return };
    fit(&mut pod.metadata.owner_references);
    if let Some(status) = &mut pod.status {
        for list in [&mut status.container_statuses, &mut status.init_container_statuses] {
            fit(list);
            for status in list.iter_mut().flatten() {
                (status.resources, status.allocated_resources, status.volume_mounts) = (None, None, None);
            }
        }
        fit(&mut status.conditions);
        fit(&mut status.pod_ips);
        fit(&mut status.host_ips);
    }
    let Some(spec) = &mut pod.spec else { return };
    fit(&mut spec.tolerations);
    spec.containers.shrink_to_fit();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        trim_container(container);
    }
    spec.ephemeral_containers = None;
    spec.security_context = None;
    spec.dns_config = None;
    spec.host_aliases = None;
    spec.image_pull_secrets = None;
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
    }
    fit(&mut spec.volumes);
}

/// Lists are read with room for four, and most hold one.
fn fit<T>(list: &mut Option<Vec<T>>) {
    list.iter_mut().for_each(Vec::shrink_to_fit);
}

fn trim_container(container: &mut Container) {
    // What is named here stays; all else is for the kubelet.
    let kept = Container {
        name: std::mem::take(&mut container.name),
        image: container.image.take(),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        ..Container::default()
    };
    *container = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn what_control_loops_read_stays() {
        let text = serde_json::json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n",
            "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "v"}], "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "1"}}, "livenessProbe": {"tcpSocket": {"port": 80}}}],
            "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "x"}}, {"name": "own", "emptyDir": {}}]},
            "status": {"phase": "Running"}});
        let mut pod: Pod = serde_json::from_value(text).unwrap();
        trim(&mut pod);
        let left = serde_json::to_value(&pod).unwrap();
        assert_eq!(
            left["spec"]["containers"][0],
            serde_json::json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "1"}}})
        );
        assert_eq!(
            left["spec"]["volumes"],
            serde_json::json!([{"name": "claim", "persistentVolumeClaim": {"claimName": "x"}}])
        );
        assert_eq!((&left["status"]["phase"], &left["spec"]["nodeName"]), (&"Running".into(), &"n".into()));
        let mut other = ConfigMap { immutable: Some(true), ..ConfigMap::default() };
        trim(&mut other);
        assert_eq!(other.immutable, Some(true));
    }
}
