//! Deployments: a ReplicaSet for each version of the template, and the way from the old ones to the new one.

use std::sync::Arc;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Queue};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{Context, Result, pods};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What the plan needs to know of a ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    wanted: i32,
    available: i32,
    /// Pods that there are, wanted or not.
    present: i32,
}

/// How many replicas the new set and each old one should have now.
fn plan(spec: &DeploymentSpec, new: Size, old: &[Size]) -> (i32, Vec<i32>) {
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.strategy.clone().unwrap_or_default();
    let mut olds: Vec<i32> = old.iter().map(|s| s.wanted).collect();
    if strategy.type_.as_deref() == Some("Recreate") {
        let gone = old.iter().all(|s| s.present == 0);
        return (if gone { replicas } else { 0 }, vec![0; old.len()]);
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let surge = pods::scaled(rolling.max_surge.as_ref(), replicas, true);
    let mut unavailable = pods::scaled(rolling.max_unavailable.as_ref(), replicas, false);
    if surge == 0 && unavailable == 0 {
        // Both rounded to nothing: it must be able to move.
        unavailable = 1;
    }
    let old_total: i32 = olds.iter().sum();
    let total = old_total + new.wanted;
    let room = (replicas + surge - total).max(0);
    let new_wanted = if new.wanted > replicas { replicas } else { new.wanted + room.min(replicas - new.wanted) };
    if old_total > 0 {
        let min_available = replicas - unavailable;
        // What isn't available goes first, as nobody misses it.
        let new_unavailable = (new.wanted - new.available).max(0);
        let mut spare = (total - min_available - new_unavailable).max(0);
        for (i, size) in old.iter().enumerate() {
            let broken = (size.wanted - size.available).max(0).min(spare);
            olds[i] -= broken;
            spare -= broken;
        }
        let available: i32 = new.available + old.iter().map(|s| s.available).sum::<i32>();
        let mut spare = (available - min_available).max(0);
        for (i, size) in old.iter().enumerate() {
            let some = olds[i].min(spare).min(size.available.max(0));
            olds[i] -= some;
            spare -= some;
        }
    }
    (new_wanted, olds)
}

pub fn start(context: Context) {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let queue = Queue::default();
    let add = queue.clone();
    deployments.on_change(move |change| add.add(change.object().key()));
    let add = queue.clone();
    sets.on_change(move |change| {
        if let Some(key) = pods::controller_key(&change.object().metadata, "Deployment") {
            add.add(key);
        }
    });
    queue.work("deployment", 4, move |key| {
        let (context, deployments, sets) = (context.clone(), deployments.clone(), sets.clone());
        async move {
            informer::synced!(deployments, sets);
            reconcile(&context, &deployments, &sets, &key).await
        }
    });
}

fn size(set: &ReplicaSet) -> Size {
    let status = set.status.clone().unwrap_or_default();
    Size {
        wanted: set.spec.replicas.unwrap_or(0),
        available: status.available_replicas.unwrap_or(0),
        present: status.replicas.max(status.terminating_replicas.unwrap_or(0)),
    }
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

async fn reconcile(
    context: &Context,
    deployments: &Informer<Deployment>,
    cache: &Informer<ReplicaSet>,
    key: &Key,
) -> Result<Option<Duration>> {
    let Some(deployment) = deployments.get(key) else { return Ok(None) };
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let (spec, Some(uid)) = (&deployment.spec, deployment.uid()) else { return Ok(None) };
    let mine = || -> Vec<Arc<ReplicaSet>> {
        let all = cache.list_in(&key.namespace).into_iter();
        all.filter(|s| pods::is_owned_by(&s.metadata, &uid)).collect()
    };
    let hash = pods::content_hash(&spec.template);
    let sets = mine();
    let newest = sets.iter().map(|s| revision(s)).max().unwrap_or(0);
    let new = sets.iter().find(|s| s.labels().get(HASH) == Some(&hash)).cloned();
    let paused = spec.paused.unwrap_or(false);
    let new = match new {
        Some(new) => {
            // A version that comes back becomes the newest.
            if revision(&new) < newest {
                annotate(context, &new, newest + 1).await?;
            }
            Some(new)
        }
        None if paused => None,
        None => Some(create(context, cache, &deployment, spec, &hash, newest + 1).await?),
    };
    let number = new.as_ref().map_or(newest, |n| revision(n).max(newest));
    if deployment.annotations().get(REVISION) != Some(&number.to_string()) {
        let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
        crate::ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
    }
    let sets = mine();
    let mut old: Vec<Arc<ReplicaSet>> =
        sets.iter().filter(|s| new.as_ref().is_none_or(|n| n.uid() != s.uid())).cloned().collect();
    old.sort_by_key(|s| revision(s));
    if let Some(new) = &new
        && !paused
    {
        let sizes: Vec<Size> = old.iter().map(|s| size(s)).collect();
        let (new_wanted, olds) = plan(spec, size(new), &sizes);
        scale(context, cache, &deployment, new, new_wanted).await?;
        for (set, wanted) in old.iter().zip(olds) {
            scale(context, cache, &deployment, set, wanted).await?;
        }
        clean_up(context, spec, &old).await?;
    }
    let sets = mine();
    let new = new.and_then(|n| sets.iter().find(|s| s.uid() == n.uid()).cloned());
    write_status(context, &deployment, spec, new.as_deref(), &sets).await?;
    Ok(None)
}

async fn annotate(context: &Context, set: &ReplicaSet, revision: i64) -> Result {
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
    api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}

async fn create(
    context: &Context,
    cache: &Informer<ReplicaSet>,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    hash: &str,
    revision: i64,
) -> Result<Arc<ReplicaSet>> {
    let namespace = deployment.namespace().unwrap_or_default();
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.into());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.into());
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|k, _| k != "kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.insert(DESIRED.into(), spec.replicas.unwrap_or(1).to_string());
    let replicas = spec.replicas.unwrap_or(1);
    let surge = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_surge.as_ref());
    annotations.insert(MAX.into(), (replicas + pods::scaled(surge, replicas, true)).to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: Some(namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![pods::owner(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            // Scaled by the plan, which sees it as any other.
            replicas: Some(0),
            selector,
            template: Some(template),
            min_ready_seconds: spec.min_ready_seconds,
        },
        status: None,
    };
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &namespace);
    let created = match api.create(&PostParams::default(), &set).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&set.name_any()).await?,
        other => other?,
    };
    cache.wait_for(&created.key(), |s| s.is_some()).await;
    Ok(Arc::new(created))
}

async fn scale(
    context: &Context,
    cache: &Informer<ReplicaSet>,
    deployment: &Deployment,
    set: &ReplicaSet,
    wanted: i32,
) -> Result {
    let present = set.spec.replicas.unwrap_or(0);
    if present == wanted {
        return Ok(());
    }
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({"spec": {"replicas": wanted}}));
    let changed = api.patch(&set.name_any(), &PatchParams::default(), &patch).await?;
    let direction = if wanted > present { "up" } else { "down" };
    let text = format!("Scaled {direction} replica set {} from {present} to {wanted}", set.name_any());
    context.events.normal(deployment, "ScalingReplicaSet", text);
    let version = changed.metadata.resource_version.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    let shown = |s: Option<&ReplicaSet>| {
        let seen = s.and_then(|s| s.metadata.resource_version.as_ref()).and_then(|v| v.parse::<u64>().ok());
        seen.is_none_or(|seen| seen >= version)
    };
    cache.wait_for(&set.key(), shown).await;
    Ok(())
}

/// Removes old sets beyond the history's limit.
async fn clean_up(context: &Context, spec: &DeploymentSpec, old: &[Arc<ReplicaSet>]) -> Result {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let empty: Vec<_> = old.iter().filter(|s| size(s).wanted == 0 && size(s).present == 0).collect();
    for set in empty.iter().take(empty.len().saturating_sub(limit)) {
        let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
        crate::ignore(api.delete(&set.name_any(), &DeleteParams::background()).await, &[404])?;
    }
    Ok(())
}

async fn write_status(
    context: &Context,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    sets: &[Arc<ReplicaSet>],
) -> Result {
    let wanted = spec.replicas.unwrap_or(1);
    let sum = |of: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.iter().filter_map(|s| s.status.as_ref()).map(of).sum()
    };
    let replicas = sum(|s| s.replicas);
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let updated = new.and_then(|n| n.status.as_ref()).map_or(0, |s| s.replicas);
    let rolling =
        spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let enough = available >= wanted - pods::scaled(rolling, wanted, false);
    let complete = updated == wanted && replicas == wanted && available >= wanted;
    let name = new.map(|n| n.name_any()).unwrap_or_default();
    let progress = if complete {
        ("NewReplicaSetAvailable", format!("ReplicaSet \"{name}\" has successfully progressed."))
    } else {
        ("ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."))
    };
    let availability = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let present = serde_json::to_value(&deployment.status).unwrap_or(Value::Null);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let old = present["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
        let same = old.filter(|c| c["status"] == status);
        let changed = same.map_or(json!(now), |c| c["lastTransitionTime"].clone());
        let untouched = old.filter(|c| c["status"] == status && c["reason"] == reason && c["message"] == message);
        let updated = untouched.map_or(json!(now), |c| c["lastUpdateTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": changed, "lastUpdateTime": updated})
    };
    let status = json!({
        "observedGeneration": deployment.metadata.generation, "replicas": replicas, "updatedReplicas": updated,
        "readyReplicas": sum(|s| s.ready_replicas.unwrap_or(0)), "availableReplicas": available,
        "unavailableReplicas": (wanted.max(replicas) - available).max(0),
        "terminatingReplicas": sum(|s| s.terminating_replicas.unwrap_or(0)),
        "conditions": [condition("Available", availability.0, availability.1, availability.2),
                       condition("Progressing", "True", progress.0, &progress.1)],
    });
    let same =
        status.as_object().into_iter().flatten().all(|(k, v)| present[k] == *v || (present[k].is_null() && v == 0));
    if same {
        return Ok(());
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &deployment.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({ "status": status }));
    crate::ignore(api.patch_status(&deployment.name_any(), &PatchParams::default(), &patch).await, &[404])
}

#[cfg(test)]
mod tests;
