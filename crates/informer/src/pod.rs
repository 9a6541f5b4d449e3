//! Pods with the fields that control loops read.
//!
//! A decoded pod takes some 18 KB of memory, most of it for fields that only its kubelet reads, and control loops hold all pods of the
//! cluster. This type has the fields that they read, under the API's names; since it isn't a [`k8s_openapi`] type, it can't be written back by
//! mistake. The fields that the pods of one controller have in common are stored once ([`intern_template`]).

#![allow(missing_docs, reason = "the types and fields are upstream's")]

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, EphemeralVolumeSource, PersistentVolumeClaimVolumeSource, PodIP, PodResourceClaim,
    PodResourceClaimStatus, PodSchedulingGate, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use parking_lot::Mutex;
use serde::Deserialize;

/// A pod, with the fields that control loops read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

impl Pod {
    /// Whether its phase is Succeeded or Failed (upstream's `IsPodTerminal`).
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }

    /// The containers that run as long as the pod: its containers, then its sidecars (KEP-753).
    pub fn serving(&self) -> impl Iterator<Item = &Container> {
        let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let spec = self.spec.iter();
        spec.flat_map(move |s| s.containers.iter().chain(s.init_containers.iter().flatten().filter(sidecar)))
    }

    /// `status.podIPs`, that of the cluster's primary family first.
    pub fn ips(&self) -> impl Iterator<Item = &str> {
        let status = self.status.iter();
        status.flat_map(|s| s.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&s.pod_ip)).map(String::as_str)
    }
}

/// The fields of a pod's spec that differ between the pods of a controller; it dereferences to the shared [`Template`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Template")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub hostname: Option<String>,
    /// The volumes that are claims.
    pub volumes: Vec<Volume>,
    template: Arc<Template>,
}

impl Deref for PodSpec {
    type Target = Template;
    fn deref(&self) -> &Template {
        &self.template
    }
}

/// The fields that pods of one template have in common.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Template {
    // Fields of `PodSpec`, only while it is deserialized: a spec is one map, and `flatten` would buffer all unknown fields.
    node_name: Option<String>,
    hostname: Option<String>,
    volumes: Option<Vec<Volume>>,
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
    pub subdomain: Option<String>,
    pub host_network: Option<bool>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub affinity: Option<Affinity>,
    pub tolerations: Option<Vec<Toleration>>,
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    pub priority: Option<i32>,
    pub preemption_policy: Option<String>,
    pub scheduler_name: Option<String>,
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub resources: Option<Resources>,
    pub resource_claims: Option<Vec<PodResourceClaim>>,
}

impl From<Template> for PodSpec {
    fn from(mut template: Template) -> Self {
        let mut volumes = template.volumes.take().unwrap_or_default();
        volumes.retain(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
        volumes.shrink_to_fit();
        PodSpec {
            node_name: template.node_name.take(),
            hostname: template.hostname.take(),
            volumes,
            template: Arc::new(template),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: Option<String>,
    pub ports: Option<Vec<ContainerPort>>,
    pub resources: Option<Resources>,
    pub restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub requests: Option<BTreeMap<String, Quantity>>,
}

/// A volume with a PersistentVolumeClaim, its own or a generic ephemeral one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    pub ephemeral: Option<EphemeralVolumeSource>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    pub reason: Option<Box<str>>,
    pub conditions: Option<Vec<PodCondition>>,
    pub start_time: Option<Time>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIP>>,
    pub nominated_node_name: Option<String>,
    pub container_statuses: Option<Vec<ContainerStatus>>,
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    pub resource_claim_statuses: Option<Vec<PodResourceClaimStatus>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: Option<Box<str>>,
    pub message: Option<String>,
    pub last_transition_time: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    pub name: String,
    pub restart_count: i32,
    pub state: Option<ContainerState>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub running: Option<Running>,
    pub terminated: Option<Terminated>,
}

/// Only the presence of the state is read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Running {}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated {
    pub exit_code: i32,
    pub finished_at: Option<Time>,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Templates in use, by the uid of their pods' controller.
static TEMPLATES: Mutex<BTreeMap<String, Weak<Template>>> = Mutex::new(BTreeMap::new());

/// Makes the pods of a controller share their template, and shrinks lists to their length. Other kinds are left as they are.
pub fn intern_template(object: &mut dyn Any) {
    let Some(pod) = object.downcast_mut::<Pod>() else { return };
    shrink_list(&mut pod.metadata.owner_references);
    if let Some(status) = &mut pod.status {
        shrink_list(&mut status.conditions);
        shrink_list(&mut status.pod_ips);
        shrink_list(&mut status.container_statuses);
    }
    let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let (Some(owner), Some(spec)) = (owner, &mut pod.spec) else { return };
    let mut templates = TEMPLATES.lock();
    match templates.get(&owner.uid).and_then(Weak::upgrade) {
        Some(present) if present == spec.template => spec.template = present,
        // The first pod, or one with another template (the affinity of a daemon pod has its node's name).
        present => {
            if present.is_none() {
                // Each insertion removes the unused templates.
                templates.retain(|_, template| template.strong_count() > 0);
            }
            templates.insert(owner.uid.clone(), Arc::downgrade(&spec.template));
        }
    }
}

/// Deserialized lists have capacity for four elements, and most hold one.
fn shrink_list<T>(list: &mut Option<Vec<T>>) {
    list.iter_mut().for_each(Vec::shrink_to_fit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, image: &str) -> Pod {
        let pod: Value = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n", "priority": 3,
                "containers": [{"name": "c", "image": image, "env": [{"name": "E", "value": "v"}], "resources": {"requests": {"cpu": "1"}}}],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "x"}}, {"name": "own", "emptyDir": {}}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "restartCount": 2, "state": {"terminated": {"exitCode": 4}}}]}});
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        intern_template(&mut pod);
        pod
    }

    #[test]
    fn pods_are_read_and_those_of_a_controller_share_their_template() {
        let (a, b, other) = (pod("a", "one"), pod("b", "one"), pod("c", "two"));
        let (spec, status) = (a.spec.as_ref().unwrap(), a.status.as_ref().unwrap());
        assert_eq!(
            (spec.node_name.as_deref(), spec.priority, spec.containers[0].image.as_deref()),
            (Some("n"), Some(3), Some("one"))
        );
        assert_eq!(spec.volumes.len(), 1);
        assert_eq!((status.pod_ip.as_deref(), status.phase.as_deref()), (Some("10.0.0.1"), Some("Running")));
        let ended = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(ended.exit_code, 4);
        assert!(Arc::ptr_eq(&spec.template, &b.spec.unwrap().template));
        assert_eq!(other.spec.unwrap().containers[0].image.as_deref(), Some("two"));
    }
}
