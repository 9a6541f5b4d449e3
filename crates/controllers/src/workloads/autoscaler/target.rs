//! What an autoscaler scales: whatever has a `scale`.

use apimachinery::ObjectExt as _;
use http::Request;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

/// What is scaled.
pub(super) struct Target {
    /// The path of its `scale`.
    pub(super) path: String,
    pub(super) replicas: i32,
    pub(super) selector: String,
    pub(super) title: String,
}

/// The plural of an object's kind with its group, as `custom.metrics.k8s.io` wants it.
///
/// # Errors
/// Nobody serves the object's kind.
pub(super) async fn resource_name(
    client: &Client,
    object: &CrossVersionObjectReference,
) -> std::result::Result<String, String> {
    let resource = discover(client, object).await?;
    Ok(if resource.group.is_empty() { resource.plural } else { format!("{}.{}", resource.plural, resource.group) })
}

async fn discover(
    client: &Client,
    object: &CrossVersionObjectReference,
) -> std::result::Result<kube::discovery::ApiResource, String> {
    let version = object.api_version.as_deref().unwrap_or("v1");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, &object.kind);
    let found = kube::discovery::oneshot::pinned_kind(client, &kind).await;
    let (resource, _) = found.map_err(|e| format!("no matches for kind {:?} in group {group:?}: {e}", object.kind))?;
    Ok(resource)
}

/// The `scale` of an autoscaler's target.
///
/// # Errors
/// Nobody serves the target's kind, or the target isn't there or has no `scale`.
pub(super) async fn find_target(
    client: &Client,
    autoscaler: &HorizontalPodAutoscaler,
) -> std::result::Result<Target, String> {
    let object = &autoscaler.spec.scale_target_ref;
    let resource = discover(client, object).await?;
    let prefix = if resource.group.is_empty() { "/api".into() } else { format!("/apis/{}", resource.group) };
    let namespace = autoscaler.namespace().unwrap_or_default();
    let path =
        format!("{prefix}/{}/namespaces/{namespace}/{}/{}/scale", resource.version, resource.plural, object.name);
    let request = Request::get(&path).body(Vec::new()).map_err(|e| e.to_string())?;
    let scale: Value = client.request(request).await.map_err(|e| e.to_string())?;
    let selector = scale.str_at(&["status", "selector"]);
    Ok(Target {
        path,
        replicas: scale.i64_at(&["spec", "replicas"]).unwrap_or(0) as i32,
        selector: selector.into(),
        title: format!("{}/{namespace}/{}", object.kind, object.name),
    })
}
