//! The ReplicaSets of a Deployment: found by their template, made, scaled, and what they remember of it.

use std::collections::BTreeMap;

use informer::Keyed as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{DeploymentController, surge};
use crate::toolkit::{Result, pods};

const HASH: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a set had before it came back.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that are its own.
const NOT_COPIED: [&str; 5] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX];

fn number<T: std::str::FromStr>(set: &ReplicaSet, key: &str) -> Option<T> {
    set.annotations().get(key)?.parse().ok()
}

pub fn revision(set: &ReplicaSet) -> i64 {
    number(set, REVISION).unwrap_or(0)
}

/// The replicas that its Deployment wanted in all when the set was last scaled.
pub fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED)
}

/// The most pods that its Deployment could have when the set was last scaled.
pub fn at_most(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX)
}

/// Whether a set is of this template, the hash among its labels left aside.
pub fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut own) = set.spec.template.clone() else { return false };
    if let Some(labels) = own.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH);
    }
    let bare = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
        template
    };
    bare(&own) == bare(template)
}

/// What a set takes over from its Deployment.
fn annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|k, _| !NOT_COPIED.contains(&k.as_str()));
    annotations
}

fn sizes(deployment: &Deployment) -> [(&'static str, String); 2] {
    let replicas = deployment.spec.replicas.unwrap_or(1);
    [(DESIRED, replicas.to_string()), (MAX, (replicas + surge(&deployment.spec)).to_string())]
}

fn api(work: &DeploymentController, namespace: Option<String>) -> Api<ReplicaSet> {
    Api::namespaced(work.context.client.clone(), &namespace.unwrap_or_default())
}

/// Brings the set of the template up to date with its Deployment: the newest revision, annotations, `minReadySeconds`.
///
/// # Errors
/// The API refuses the change of the set.
pub async fn update(work: &DeploymentController, deployment: &Deployment, set: &ReplicaSet, others: i64) -> Result {
    let mut change = json!({});
    if revision(set) <= others {
        // A version that comes back becomes the newest.
        change["metadata"]["annotations"][REVISION] = (others + 1).to_string().into();
        let mut history: Vec<&str> = set.annotations().get(HISTORY).map(|h| h.split(',').collect()).unwrap_or_default();
        history.extend(set.annotations().get(REVISION).map(String::as_str));
        change["metadata"]["annotations"][HISTORY] = history.join(",").into();
    }
    for (key, value) in annotations(deployment) {
        if set.annotations().get(&key) != Some(&value) {
            change["metadata"]["annotations"][key] = value.into();
        }
    }
    if set.spec.min_ready_seconds.unwrap_or(0) != deployment.spec.min_ready_seconds.unwrap_or(0) {
        change["spec"]["minReadySeconds"] = deployment.spec.min_ready_seconds.unwrap_or(0).into();
    }
    if change == json!({}) {
        return Ok(());
    }
    write(work, set, change).await
}

/// Changes a set, and waits until the cache shows it.
async fn write(work: &DeploymentController, set: &ReplicaSet, change: serde_json::Value) -> Result {
    let api = api(work, set.namespace());
    let changed = api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    let version = |s: &ReplicaSet| s.resource_version().and_then(|v| v.parse::<u64>().ok());
    let written = version(&changed).unwrap_or(0);
    work.cache.wait_for(&set.key(), |s| s.is_none_or(|s| version(s).is_none_or(|seen| seen >= written))).await;
    Ok(())
}

/// What came of the making of a set.
pub enum Made {
    Set,
    /// Its name was taken by another one; the next attempt takes another name.
    Collision,
}

fn collisions(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0)
}

fn new_hash(deployment: &Deployment) -> String {
    let template = &deployment.spec.template;
    match collisions(deployment) {
        0 => pods::content_hash(template),
        n => pods::content_hash(&(template, n)),
    }
}

/// The name that the set of a Deployment's template gets when it is made.
pub fn new_name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.name_any(), new_hash(deployment))
}

/// Makes the set of a Deployment's template.
///
/// # Errors
/// The API refuses the set, or the count of collisions in the status.
pub async fn create(work: &DeploymentController, deployment: &Deployment, revision: i64, size: i32) -> Result<Made> {
    let spec = &deployment.spec;
    let collisions = collisions(deployment);
    let hash = new_hash(deployment);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let mut annotations = annotations(deployment);
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.extend(sizes(deployment).map(|(k, v)| (k.to_string(), v)));
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(new_name(deployment)),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![pods::owner(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(size),
            selector,
            template: Some(template),
            min_ready_seconds: spec.min_ready_seconds,
        },
        status: None,
    };
    let api = api(work, deployment.namespace());
    let mut is_new = true;
    let created = match api.create(&PostParams::default(), &set).await {
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
            let present = api.get(&set.name_any()).await?;
            let ours = pods::is_owned_by(&present.metadata, &deployment.uid().unwrap_or_default());
            if !ours || !is_of(&present, &spec.template) {
                count_collision(work, deployment, collisions).await?;
                return Ok(Made::Collision);
            }
            is_new = false;
            present
        }
        other => other?,
    };
    work.cache.wait_for(&created.key(), |s| s.is_some()).await;
    if is_new && size > 0 {
        record_scaled(work, deployment, &created, 0, size);
    }
    Ok(Made::Set)
}

async fn count_collision(work: &DeploymentController, deployment: &Deployment, collisions: i32) -> Result {
    let namespace = deployment.namespace().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(work.context.client.clone(), &namespace);
    let patch = Patch::Merge(json!({"status": {"collisionCount": collisions + 1}}));
    api.patch_status(&deployment.name_any(), &PatchParams::default(), &patch).await?;
    let counted = |d: Option<&Deployment>| {
        d.and_then(|d| d.status.as_ref()).is_none_or(|s| s.collision_count.unwrap_or(0) > collisions)
    };
    work.deployments.wait_for(&deployment.key(), counted).await;
    Ok(())
}

/// Sets a set's replicas, and what it remembers of the Deployment's size.
///
/// # Errors
/// The API refuses the change of the set.
pub async fn scale(work: &DeploymentController, deployment: &Deployment, set: &ReplicaSet, wanted: i32) -> Result {
    let present = set.spec.replicas.unwrap_or(0);
    let mut change = json!({});
    if present != wanted {
        change["spec"]["replicas"] = wanted.into();
    }
    if wanted > 0 {
        for (key, value) in sizes(deployment) {
            if set.annotations().get(key) != Some(&value) {
                change["metadata"]["annotations"][key] = value.into();
            }
        }
    }
    if change == json!({}) {
        return Ok(());
    }
    write(work, set, change).await?;
    if present != wanted {
        record_scaled(work, deployment, set, present, wanted);
    }
    Ok(())
}

fn record_scaled(work: &DeploymentController, deployment: &Deployment, set: &ReplicaSet, before: i32, now: i32) {
    let direction = if now > before { "up" } else { "down" };
    let text = format!("Scaled {direction} replica set {} from {before} to {now}", set.name_any());
    work.context.events.normal(deployment, "ScalingReplicaSet", text);
}
