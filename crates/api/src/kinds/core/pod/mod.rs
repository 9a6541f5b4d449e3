//! `Pod`: containers that share a node, an address and volumes.

pub mod amounts;
mod claims;
mod columns;
mod container;
mod defaults;
pub mod logs;
pub mod placement;
mod resources;
pub mod security;
pub mod static_pods;
mod status;
mod update;
mod validate;
mod volumes;

use apimachinery::ObjectExt as _;
use serde_json::Value;

use super::GROUP;
use crate::kinds::{ALL, Absent, Deletion, Kind, SelectedField, Strategy, Subresource, Target};

pub use defaults::{foreign_volume as default_foreign_volume, qos_class, spec as default_spec};
pub use resources::is_standard as is_standard_resource;
pub use update::resize;
pub use validate::spec as check_spec;

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
    strategy: Strategy {
        defaults: defaults::pod,
        generate: placement::merge_label_keys,
        prepare_update,
        validate: validate::pod,
        validate_status: Some(status::validate),
        printer: columns::PRINTER,
        usage: amounts::usage,
        deletion: Deletion { grace_period, returns_object: true, ..Deletion::PLAIN },
        selected: &[SelectedField::new("spec.hostNetwork", "spec.hostNetwork", Absent::Is("false"))],
        ..Strategy::PLAIN
    },
    ..Kind::namespaced(GROUP, "v1", "Pod", "pods")
};

/// Ephemeral containers change by their subresource alone.
fn prepare_update(new: &mut Value, old: &Value, target: Target) {
    // Its class is settled when it is made; older kubelets leave it out.
    let class = old.at(&["status", "qosClass"]);
    if target == Target::Status && new.at(&["status", "qosClass"]).is_null() && !class.is_null() {
        new.child_mut("status").insert("qosClass".into(), class.clone());
    }
    if target != Target::Main {
        return;
    }
    match &old["spec"]["ephemeralContainers"] {
        Value::Null => drop(new.child_mut("spec").remove("ephemeralContainers")),
        present => drop(new.child_mut("spec").insert("ephemeralContainers".into(), present.clone())),
    }
}

/// Seconds that a pod has to end. Only pods that may run on a node get any.
fn grace_period(pod: &Value, said: Option<i64>) -> i64 {
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    if pod.str_at(&["spec", "nodeName"]).is_empty() || ended {
        return 0;
    }
    let seconds = said.or_else(|| pod.i64_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30);
    if seconds < 0 { 1 } else { seconds }
}
