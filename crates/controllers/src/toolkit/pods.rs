//! What controllers of pods have in common.

use std::sync::Arc;

use apimachinery::LabelSelector;
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiSelector, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};

/// A pod that is to be made: with all that a template has, other than the pods that are kept.
pub use k8s_openapi::api::core::v1::Pod as NewPod;

use crate::toolkit::{Context, Result, ignore};

/// A controller's reference to what it manages.
pub fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|o| o.uid == uid)
}

pub fn selector(selector: &ApiSelector) -> Option<LabelSelector> {
    let selector = LabelSelector::from_json(&serde_json::to_value(selector).ok()?).ok()?;
    if selector.is_empty() { None } else { Some(selector) }
}

pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Neither over nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_deleting(pod) && !pod.is_over()
}

fn condition_since(pod: &Pod, kind: &str) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

pub fn is_ready(pod: &Pod) -> bool {
    condition_since(pod, "Ready").is_some()
}

/// Ready for at least `min_ready` seconds; else, how long it still takes (if it is ready at all).
///
/// # Errors
/// The pod isn't available yet.
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> std::result::Result<(), Option<SignedDuration>> {
    let Some(since) = condition_since(pod, "Ready") else { return Err(None) };
    let needed = SignedDuration::from_secs(i64::from(min_ready));
    let so_far = now.duration_since(since);
    if min_ready <= 0 || so_far >= needed { Ok(()) } else { Err(Some(needed - so_far)) }
}

/// A pod from a template, owned by `owner`.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> NewPod {
    let meta = template.metadata.clone().unwrap_or_default();
    NewPod {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..NewPod::default()
    }
}

/// Creates a pod and waits until the cache shows it, so that it isn't created twice.
///
/// # Errors
/// The API refuses the pod, as admission, a quota or a name that is taken make it do.
pub async fn create(client: &Client, cache: &Informer<Pod>, pod: &NewPod) -> Result<NewPod> {
    let api: Api<NewPod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let created = api.create(&PostParams::default(), pod).await?;
    let uid = created.uid();
    cache.wait_for(&created.key(), |p| p.is_some_and(|p| p.uid() == uid)).await;
    Ok(created)
}

/// Creations that are under way at a time: enough for the API to commit many together, and no more than its queues take.
const AT_ONCE: usize = 64;

/// Creates pods of `owner` many at once, as the API commits them together, and records an event of each. The first is tried alone, then twice
/// as many each time, until one fails (upstream's `slowStartBatch`): what one pod isn't allowed, the others aren't either. That failure is
/// returned.
pub async fn create_all<K: Resource<DynamicType = ()>>(
    context: &Context,
    cache: &Informer<Pod>,
    owner: &K,
    pods: impl IntoIterator<Item = NewPod>,
) -> Option<kube::Error> {
    let mut left = pods.into_iter().collect::<Vec<NewPod>>().into_iter();
    let mut batch = 1;
    loop {
        let pods: Vec<NewPod> = left.by_ref().take(batch).collect();
        if pods.is_empty() {
            return None;
        }
        let creations = pods.into_iter().map(|pod| async move { create(&context.client, cache, &pod).await });
        let mut failure = None;
        for created in futures::future::join_all(creations).await {
            match created {
                Ok(pod) => {
                    context.events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", pod.name_any()));
                }
                Err(error) => {
                    if !is_of_namespace_that_ends(&error) {
                        let text = format!("Error creating: {}", informer::error_message(&error));
                        context.events.warning(owner, "FailedCreate", text);
                    }
                    failure = Some(error);
                }
            }
        }
        if failure.is_some() {
            return failure;
        }
        batch = batch.saturating_mul(2).min(AT_ONCE);
    }
}

/// Whether an object couldn't be made because its namespace is being deleted: that needs no event, and none could be written there.
pub fn is_of_namespace_that_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
}

/// Deletes a pod of `owner` and records an event of it.
///
/// # Errors
/// The API refuses the deletion of a pod that is there.
pub async fn delete_and_record<K: Resource<DynamicType = ()>>(
    context: &Context,
    cache: &Informer<Pod>,
    owner: &K,
    pod: &Pod,
) -> Result {
    if let Err(error) = delete(&context.client, cache, pod).await {
        context.events.warning(owner, "FailedDelete", format!("Error deleting: {}", informer::error_message(&error)));
        return Err(error);
    }
    context.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
    Ok(())
}

/// Deletes a pod and waits until the cache shows that it is on its way out.
///
/// # Errors
/// The API refuses the deletion of a pod that is there.
pub async fn delete(client: &Client, cache: &Informer<Pod>, pod: &Pod) -> Result {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    ignore(api.delete(&pod.name_any(), &params).await, &[404, 409])?;
    let uid = pod.uid();
    cache.wait_for(&pod.key(), |p| p.is_none_or(|p| p.uid() != uid || is_deleting(p))).await;
    Ok(())
}

/// The pods of a namespace that `uid` controls.
pub fn owned(cache: &Informer<Pod>, namespace: &str, uid: &str) -> Vec<Arc<Pod>> {
    cache.list_in(namespace).into_iter().filter(|p| is_owned_by(&p.metadata, uid)).collect()
}

/// The key of the controller of kind `kind` that owns an object.
pub fn controller_key(meta: &ObjectMeta, kind: &str) -> Option<Key> {
    let owner = controller_of(meta).filter(|o| o.kind == kind)?;
    Some(Key::new(meta.namespace.as_deref().unwrap_or(""), &owner.name))
}

/// A short name for the content of a value: the same content has the same name.
pub fn content_hash(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    apimachinery::names::safe_encode(&hash.to_string())
}

/// A number or a percentage of `total`, rounded up or down.
pub fn scaled(value: Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>, total: i32, up: bool) -> i32 {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match value {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse::<i32>().unwrap_or(0).into();
            let product = percent * i64::from(total);
            let scaled = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(scaled).unwrap_or(if scaled < 0 { i32::MIN } else { i32::MAX })
        }
        None => 0,
    }
}
