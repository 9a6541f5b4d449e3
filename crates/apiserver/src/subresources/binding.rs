//! Binding a pod to its node (`pods/binding`, and the kind `Binding`).

use std::sync::Arc;

use api::kinds;
use api::kinds::Target;
use apimachinery::{Cause, ObjectExt as _, Status, clock};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{admission_attributes, set_condition};
use crate::ApiServer;
use crate::admission::{Operation, dynamic};
use crate::authentication::User;
use crate::pipeline::WriteRequest;
use crate::request::{ResourceRequest, dry_run};

/// Gives a pod its node, once, and returns the pod's bytes.
///
/// # Errors
/// 422 for a binding without a node; 409 when the pod is bound, gated or being deleted, or another one than the binding means.
pub async fn bind(
    server: &Arc<ApiServer>,
    user: &User,
    info: &ResourceRequest,
    binding: &Value,
) -> Result<Bytes, Status> {
    let node = binding.str_at(&["target", "name"]).to_string();
    if node.is_empty() {
        let cause = Cause::required("target.name", "");
        return Err(kinds::BINDINGS.invalid(&info.path.name, vec![cause]));
    }
    let uid = binding.uid().to_string();
    let attributes = admission_attributes(user, info, Operation::Create, dry_run(&info.query)?);
    dynamic::admit(server, &attributes, binding).await?;
    let make = |current: &Value| {
        let refuse = |why: String| Status::conflict("", "pods/binding", &info.path.name, &why);
        if current.is_deleting() {
            return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", info.path.name)));
        }
        let bound = current.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(refuse(format!("pod {} is already assigned to node {bound:?}", info.path.name)));
        }
        if !current.array_at(&["spec", "schedulingGates"]).is_empty() {
            return Err(refuse(format!("pod {} has non-empty .spec.schedulingGates", info.path.name)));
        }
        if !uid.is_empty() && uid != current.uid() {
            return Err(refuse(format!("the UID in the binding ({uid}) is not that of the pod")));
        }
        let mut new = current.clone();
        new["spec"]["nodeName"] = node.as_str().into();
        set_condition(
            &mut new,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": clock::now_rfc3339()}),
        );
        // Where the pod is, for itself to read (PodTopologyLabels, KEP-4742).
        if let Some(place) = server.cache.of(kinds::NODES).get(&node) {
            for key in ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"] {
                if let Some(value) = place.label(key) {
                    new.meta_mut().entry("labels").or_insert_with(|| json!({}))[key] = value.into();
                }
            }
        }
        let annotations = binding.at(&["metadata", "annotations"]).as_object().into_iter().flatten();
        let annotations: Vec<(&String, &Value)> = annotations.filter(|(_, value)| value.is_string()).collect();
        if !annotations.is_empty() {
            let mut all = current["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
            all.extend(annotations.into_iter().map(|(key, value)| (key.clone(), value.clone())));
            new.set_meta("annotations", all);
        }
        Ok(new)
    };
    WriteRequest::of(server, user, info)?.to(Target::Binding).admitted().update(make).await
}
