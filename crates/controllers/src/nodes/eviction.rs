//! Pods that must leave their node, or whose node is gone.

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::toolkit::{Context, Result, ignore, nodes, pods};

pub fn on_node(all_pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    let is_there = |p: &Arc<Pod>| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
    all_pods.list().into_iter().filter(is_there).collect()
}

/// Services must not send anything to the pods of a lost node.
///
/// # Errors
/// The API refuses the status of a pod that is there.
pub async fn mark_unready(context: &Context, all_pods: &Informer<Pod>, node: &str) -> Result {
    for pod in on_node(all_pods, node).into_iter().filter(|p| pods::is_ready(p)) {
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        let now = apimachinery::clock::now_rfc3339();
        let patch = Patch::Strategic(
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]}}),
        );
        ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404])?;
        context.events.warning(pod.as_ref(), "NodeNotReady", "Node is not ready");
    }
    Ok(())
}

/// Deletes the pods that don't tolerate a NoExecute taint of the node, once their time is over. Returns when the next
/// one's is.
///
/// # Errors
/// The API refuses a change or the deletion of a pod that is there; pods after it are left for the next attempt.
pub async fn evict(context: &Context, all_pods: &Informer<Pod>, node: &Node) -> Result<Option<Duration>> {
    let taints = nodes::taints(node);
    let executing: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
    if executing.is_empty() {
        return Ok(None);
    }
    if taints.iter().any(|t| t.key == nodes::OUT_OF_SERVICE) && !nodes::is_ready(node) {
        release(context, all_pods, &node.name_any()).await?;
    }
    let mut soonest: Option<i64> = None;
    for pod in on_node(all_pods, &node.name_any()).into_iter().filter(|p| !pods::is_deleting(p)) {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let left = |taint: &&Taint| {
            let limit = placement::tolerated_seconds(&tolerations, taint)?;
            // One without a time is about to get it.
            let age = taint.time_added.as_ref().map_or(0, |t| apimachinery::clock::now().duration_since(t.0).as_secs());
            Some(limit.saturating_sub(age))
        };
        match executing.iter().filter_map(left).min() {
            Some(left) if left <= 0 => evict_one(context, all_pods, &pod).await?,
            Some(left) => soonest = Some(soonest.map_or(left, |s| s.min(left))),
            None => {}
        }
    }
    Ok(soonest.map(|s| apimachinery::clock::seconds(s.max(1))))
}

/// Marks a pod as disrupted, with the reason.
async fn mark(context: &Context, pod: &Pod, reason: &str, message: &str) -> Result {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": apimachinery::clock::now_rfc3339()});
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}}));
    ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404, 409])
}

async fn evict_one(context: &Context, all_pods: &Informer<Pod>, pod: &Pod) -> Result {
    context.events.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {}", pod.key()));
    mark(context, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint").await?;
    pods::delete(&context.client, all_pods, pod).await
}

/// Removes terminating pods from a node that is out of service: no kubelet will end them.
async fn release(context: &Context, all_pods: &Informer<Pod>, node: &str) -> Result {
    for pod in on_node(all_pods, node).into_iter().filter(|p| pods::is_deleting(p)) {
        remove(context, &pod).await?;
    }
    Ok(())
}

/// Removes a pod at once; one that hadn't ended has failed.
async fn remove(context: &Context, pod: &Pod) -> Result {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    if !pod.is_over() {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}}));
        ignore(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await, &[404, 409])?;
    }
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    ignore(api.delete(&pod.name_any(), &params).await, &[404, 409])
}

/// Pods of a node that was deleted are gone with it.
///
/// # Errors
/// The API refuses a change or the deletion of a pod that is there; pods after it are left for the next attempt.
pub async fn orphans(context: &Context, all_pods: &Informer<Pod>, node: &str) -> Result {
    for pod in on_node(all_pods, node) {
        if !pods::is_deleting(&pod) {
            mark(context, &pod, "DeletionByPodGC", "PodGC: node no longer exists").await?;
        }
        remove(context, &pod).await?;
    }
    Ok(())
}
