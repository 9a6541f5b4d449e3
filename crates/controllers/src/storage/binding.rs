//! Persistent volumes: claims are bound to volumes, volumes made on demand, and both protected while in use.
//!
//! The provisioner `timonel.io/local-path` gives a folder on the node that the scheduler chose for the first pod. The
//! folder is made, and later removed, by that node's agent.

use std::sync::Arc;
use std::time::Duration;

use csi::local_path::{self, CONTENT_SOURCE_ANNOTATION, ContentSource, FINALIZER, NODE_KEY, PROVISIONER};
use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{expand, origin, snapshots};
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result, ignore};

/// On a volume: who made it, and deletes it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

pub(super) struct Caches {
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    pub(super) classes: Informer<StorageClass>,
    pub(super) pods: Informer<Pod>,
    pub(super) nodes: Informer<Node>,
}

pub fn start(context: Context) {
    let caches = Caches {
        claims: context.informers.of(),
        volumes: context.informers.of(),
        classes: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
    };
    if context.config.local_storage {
        tasks::spawn("storage-class", ensure_class(context.clone()));
    }
    let caches = Arc::new(caches);
    let mut claims = Controller::of(&context, &caches.claims);
    let mut volumes = Controller::of(&context, &caches.volumes);
    volumes.watch(&caches.claims, |change| {
        let volume = change.object().spec.as_ref().and_then(|s| s.volume_name.as_ref());
        volume.map(|volume| Key::new("", volume))
    });
    claims.watch(&caches.volumes, |change| {
        let claim = change.object().spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        claim.map(|c| Key::new(c.namespace.as_deref().unwrap_or(""), c.name.as_deref().unwrap_or("")))
    });
    let all = caches.claims.clone();
    claims.watch(&caches.classes, move |_| {
        // Claims may have waited for this class, or for a default.
        let waits = |c: &&Arc<PersistentVolumeClaim>| c.spec.as_ref().is_none_or(|s| s.volume_name.is_none());
        all.list().iter().filter(waits).map(|claim| claim.key()).collect::<Vec<_>>()
    });
    let all = caches.claims.clone();
    claims.watch(&caches.pods, move |change| {
        // The end of a pod may free a claim that is to be deleted.
        let pod = change.object();
        let namespace = pod.namespace().unwrap_or_default();
        let keys = claims_of(pod).into_iter().map(|name| Key::new(&namespace, &name));
        let is_deleted = |key: &Key| all.get(key).is_some_and(|c| c.metadata.deletion_timestamp.is_some());
        keys.filter(is_deleted).collect::<Vec<_>>()
    });
    claims.needs(&caches.nodes);
    if context.config.snapshots {
        let (context, claims) = (context.events("snapshot-controller"), claims.queue().clone());
        tasks::until_done("snapshot-controller", move || snapshots::run(context.clone(), claims.clone()));
    }
    claims.run("claims", 2, Claims { context: context.clone(), caches: caches.clone() });
    volumes.run("volumes", 2, Volumes { context, caches });
}

struct Claims {
    context: Context,
    caches: Arc<Caches>,
}

impl Reconcile for Claims {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        claim(&self.context, &self.caches, key).await.map(|()| None)
    }
}

struct Volumes {
    context: Context,
    caches: Arc<Caches>,
}

impl Reconcile for Volumes {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        volume(&self.context, &self.caches, key).await.map(|()| None)
    }
}

async fn ensure_class(context: Context) {
    let api: Api<StorageClass> = Api::all(context.client.clone());
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true});
    let Ok(class) = serde_json::from_value(class) else { return };
    if let Err(error) = ignore(api.create(&PostParams::default(), &class).await, &[409]) {
        tracing::warn!(%error, "failed to create the StorageClass local-path");
    }
}

pub(super) fn claims_of(pod: &Pod) -> Vec<String> {
    informer::claims(pod).into_iter().map(|claim| claim.name).collect()
}

/// Whether a pod that hasn't ended uses the claim of its namespace.
pub(super) fn uses(pod: &Pod, claim: &str) -> bool {
    // One without a node yet holds nothing: no node starts a pod whose claim is about to go.
    let has_node = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    has_node && !pod.is_over() && informer::claims(pod).iter().any(|c| c.name == claim)
}

async fn claim(context: &Context, caches: &Caches, key: &Key) -> Result {
    let Some(claim) = caches.claims.get(key) else { return Ok(()) };
    if claim.metadata.deletion_timestamp.is_some() {
        return release_claim(context, caches, &claim).await;
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if let Some(name) = &spec.volume_name {
        let Some(volume) = caches.volumes.get(&Key::new("", name)) else {
            if phase != "Bound" {
                return Ok(());
            }
            let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            context.events.warning(claim.as_ref(), "ClaimLost", text);
            return set_phase(context, &claim, "Lost", None).await;
        };
        // A volume that is held for the claim is what somebody wanted; any other must do for it.
        let is_held = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some());
        if phase == "Pending"
            && !is_held
            && let Err(why) = placement::volume_satisfies(&claim, &volume)
        {
            let text = format!("Cannot bind to requested volume {name:?}: {why}");
            context.events.warning(claim.as_ref(), "VolumeMismatch", text);
            return Ok(());
        }
        return bind(context, caches, &claim, &volume).await;
    }
    let mut candidates: Vec<_> =
        caches.volumes.list().into_iter().filter(|v| placement::volume_fits(&claim, v)).collect();
    candidates.sort_by_cached_key(|volume| placement::volume_rank(volume));
    let class = spec.storage_class_name.clone().unwrap_or_default();
    let class = caches.classes.get(&Key::new("", &class));
    let waits = class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let selected = claim.annotations().get(SELECTED_NODE).cloned();
    if let Some(node) = selected.as_ref().filter(|_| waits).and_then(|name| caches.nodes.get(&Key::new("", name))) {
        candidates.retain(|volume| is_usable_on(volume, &node));
    }
    let reserved = candidates.first().is_some_and(|v| v.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()));
    if let Some(volume) = candidates.first().filter(|_| !waits || reserved || selected.is_some()) {
        return bind(context, caches, &claim, volume).await;
    }
    let Some(class) = class else { return without_class(context, caches, &claim, &spec).await };
    if class.provisioner == NO_PROVISIONER && waits && selected.is_some() {
        // Somebody else took what the scheduler saw there: it has to look again.
        return deselect(context, &claim).await;
    }
    if class.provisioner != PROVISIONER {
        let due = !waits || selected.is_some();
        return if due {
            leave_to(context, &claim, &class.provisioner).await
        } else {
            record_waiting(context, caches, &claim)
        };
    }
    if let Some(source) = &spec.data_source {
        return match origin::find(context, caches, &claim, source).await? {
            Ok(found) => provision(context, caches, &claim, &class, &found.node, Some(found.origin)).await,
            Err(message) => {
                context.events.warning(claim.as_ref(), "ProvisioningFailed", message);
                Ok(())
            }
        };
    }
    match selected {
        Some(node) => provision(context, caches, &claim, &class, &node, None).await,
        None if waits => record_waiting(context, caches, &claim),
        None => {
            let text = "the provisioner timonel.io/local-path needs volumeBindingMode: WaitForFirstConsumer, as its volumes are on one node";
            context.events.warning(claim.as_ref(), "ProvisioningFailed", text);
            Ok(())
        }
    }
}

/// Whether a volume may be used on a node.
fn is_usable_on(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    affinity.is_none_or(|selector| placement::node_selector_matches(selector, node))
}

/// Takes back the node that the scheduler chose for a claim, so that it chooses again.
async fn deselect(context: &Context, claim: &PersistentVolumeClaim) -> Result {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: null}}}));
    ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])
}

fn record_waiting(context: &Context, caches: &Caches, claim: &PersistentVolumeClaim) -> Result {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let waits = |pod: &Arc<Pod>| {
        let is_placed = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        !is_placed && !pod.is_over() && informer::claims(pod).iter().any(|c| c.name == name)
    };
    let mut pods: Vec<String> =
        caches.pods.list_in(&namespace).iter().filter(|pod| waits(pod)).map(|pod| pod.name_any()).collect();
    pods.sort();
    if !pods.is_empty() {
        let plural = if pods.len() > 1 { "s" } else { "" };
        let text = format!("waiting for pod{plural} {} to be scheduled", pods.join(","));
        context.events.normal(claim, "WaitForPodScheduled", text);
        return Ok(());
    }
    let text = "waiting for first consumer to be created before binding";
    context.events.normal(claim, "WaitForFirstConsumer", text);
    Ok(())
}

/// A claim whose class isn't there, or that has none: it gets the default one as soon as there is one.
async fn without_class(
    context: &Context,
    caches: &Caches,
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
) -> Result {
    let is_default = |class: &Arc<StorageClass>| {
        class.annotations().get("storageclass.kubernetes.io/is-default-class").map(String::as_str) == Some("true")
    };
    match spec.storage_class_name.as_deref() {
        None => {
            let defaults = caches.classes.list().into_iter().filter(|c| is_default(c));
            // Of several the newest.
            let Some(class) = defaults.max_by_key(|c| c.metadata.creation_timestamp.as_ref().map(|t| t.0)) else {
                let text = "no persistent volumes available for this claim and no storage class is set";
                context.events.normal(claim, "FailedBinding", text);
                return Ok(());
            };
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
            let patch = Patch::Merge(json!({"spec": {"storageClassName": class.name_any()}}));
            ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])
        }
        Some("") => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            context.events.normal(claim, "FailedBinding", text);
            Ok(())
        }
        Some(name) => {
            let text = format!("storageclass.storage.k8s.io {name:?} not found");
            context.events.warning(claim, "ProvisioningFailed", text);
            Ok(())
        }
    }
}

/// Annotates a claim that waits for an external provisioner, which finds it by that.
async fn leave_to(context: &Context, claim: &PersistentVolumeClaim, provisioner: &str) -> Result {
    const ASKED: [&str; 2] =
        ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
    if ASKED.iter().any(|key| claim.annotations().get(*key).map(String::as_str) != Some(provisioner)) {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
        let annotations = json!({ASKED[0]: provisioner, ASKED[1]: provisioner});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        ignore(api.patch(&claim.name_any(), &PatchParams::default(), &patch).await, &[404])?;
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    context.events.normal(claim, "ExternalProvisioning", text);
    Ok(())
}

async fn provision(
    context: &Context,
    caches: &Caches,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    origin: Option<ContentSource>,
) -> Result {
    let Some(target) = caches.nodes.get(&Key::new("", node)) else {
        context.events.warning(claim, "ProvisioningFailed", format!("the selected node {node} is gone"));
        return deselect(context, claim).await;
    };
    let Some(folder) = target.annotations().get("timonel.io/storage-path") else {
        context.events.warning(claim, "ProvisioningFailed", format!("node {node} doesn't say where its volumes are"));
        return Ok(());
    };
    let spec = claim.spec.clone().unwrap_or_default();
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let hostname = target.labels().get("kubernetes.io/hostname").cloned().unwrap_or_else(|| node.into());
    let path = format!("{folder}/{name}_{}_{}", claim.namespace().unwrap_or_default(), claim.name_any());
    let mut annotations = json!({PROVISIONED_BY: PROVISIONER, NODE_KEY: node});
    if let Some(origin) = origin {
        annotations[CONTENT_SOURCE_ANNOTATION] = origin.to_string().into();
    }
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": [FINALIZER], "annotations": annotations},
        "spec": {"capacity": spec.resources.and_then(|r| r.requests), "accessModes": spec.access_modes,
                 "volumeMode": spec.volume_mode, "storageClassName": class.name_any(),
                 "persistentVolumeReclaimPolicy": class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into()),
                 "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace(),
                              "name": claim.name_any(), "uid": claim.uid()},
                 "local": {"path": path},
                 "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                     [{"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}]}]}}}});
    let volume: PersistentVolume = serde_json::from_value(volume).map_err(kube::Error::SerdeError)?;
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    match api.create(&PostParams::default(), &volume).await {
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
        other => other.map(|_| ())?,
    }
    context.events.normal(claim, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
    Ok(())
}

/// Ties a claim and a volume together: first the volume, so that no other claim gets it, then the claim.
async fn bind(context: &Context, caches: &Caches, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result {
    let spec = volume.spec.clone().unwrap_or_default();
    let holder = spec.claim_ref.as_ref().and_then(|r| r.uid.clone());
    if holder.is_some() && holder != claim.uid() {
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound") {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            context.events.warning(claim, "ClaimMisbound", text);
            return set_phase(context, claim, "Lost", None).await;
        }
        let text = format!("volume {:?} already bound to a different claim.", volume.name_any());
        context.events.warning(claim, "FailedBinding", text);
        return Ok(());
    }
    if holder.is_none() {
        let api: Api<PersistentVolume> = Api::all(context.client.clone());
        let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace(),
                               "name": claim.name_any(), "uid": claim.uid()});
        let patch =
            json!({"metadata": {"resourceVersion": volume.resource_version()}, "spec": {"claimRef": reference}});
        let uid = claim.uid();
        api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        let key = volume.key();
        caches
            .volumes
            .wait_for(&key, |v| v.and_then(|v| v.spec.as_ref()?.claim_ref.as_ref()?.uid.clone()) == uid)
            .await;
    }
    let claim_spec = claim.spec.clone().unwrap_or_default();
    if claim_spec.volume_name.is_none() {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(context.client.clone(), &claim.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}},
                           "spec": {"volumeName": volume.name_any()}});
        ignore(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
    }
    set_volume_phase(context, volume, "Bound").await?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    if bound {
        expand::grow(context, claim, volume).await
    } else {
        set_phase(context, claim, "Bound", Some(volume)).await
    }
}

async fn set_phase(
    context: &Context,
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result {
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some(phase.into());
    if let Some(spec) = volume.and_then(|v| v.spec.as_ref()) {
        status.capacity.clone_from(&spec.capacity);
        status.access_modes.clone_from(&spec.access_modes);
    }
    patch_status_if_changed(context, claim, claim.status.as_ref(), &status).await.map(|_| ())
}

async fn set_volume_phase(context: &Context, volume: &PersistentVolume, phase: &str) -> Result {
    if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
        return Ok(());
    }
    let status = PersistentVolumeStatus {
        phase: Some(phase.into()),
        last_phase_transition_time: Some(Time(apimachinery::clock::now())),
        ..volume.status.clone().unwrap_or_default()
    };
    patch_status_if_changed(context, volume, volume.status.as_ref(), &status).await.map(|_| ())
}

pub(super) fn without(finalizers: &[String], gone: &str) -> Vec<String> {
    finalizers.iter().filter(|f| *f != gone).cloned().collect()
}

/// A claim that is to be deleted goes once no pod uses it.
async fn release_claim(context: &Context, caches: &Caches, claim: &Arc<PersistentVolumeClaim>) -> Result {
    let namespace = claim.namespace().unwrap_or_default();
    let name = claim.name_any();
    let used = caches.pods.list_in(&namespace).iter().any(|p| uses(p, &name));
    if used || !claim.finalizers().iter().any(|f| f == CLAIM_PROTECTION) {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({"metadata": {"finalizers": without(claim.finalizers(), CLAIM_PROTECTION)}});
    ignore(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await, &[404])
}

async fn volume(context: &Context, caches: &Caches, key: &Key) -> Result {
    let Some(volume) = caches.volumes.get(key) else { return Ok(()) };
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let spec = volume.spec.clone().unwrap_or_default();
    let claim = spec.claim_ref.as_ref().and_then(|r| {
        let claim = caches.claims.get(&Key::new(r.namespace.as_deref()?, r.name.as_deref()?))?;
        (r.uid.is_none() || r.uid == claim.uid()).then_some(claim)
    });
    if volume.metadata.deletion_timestamp.is_some() {
        if claim.is_none() && volume.finalizers().iter().any(|f| f == VOLUME_PROTECTION) {
            let patch = json!({"metadata": {"finalizers": without(volume.finalizers(), VOLUME_PROTECTION)}});
            return ignore(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404]);
        }
        return Ok(());
    }
    match (&spec.claim_ref, claim) {
        (None, _) => set_volume_phase(context, &volume, "Available").await,
        (Some(reference), None) if reference.uid.is_some() => {
            // The cache may be behind a claim that was just made: ask the API before anything is let go.
            let (namespace, name) =
                (reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default());
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
            if claims.get_opt(&name).await?.is_some_and(|c| c.uid() == reference.uid) {
                return Ok(());
            }
            let failed = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed");
            if failed {
                return Ok(());
            }
            set_volume_phase(context, &volume, "Released").await?;
            // Volumes of others are deleted by those.
            reclaim(context, &volume).await
        }
        _ => Ok(()),
    }
}

/// What becomes of a volume whose claim is gone. Those of others are deleted by those: of drivers, and of provisioners that say so.
async fn reclaim(context: &Context, volume: &PersistentVolume) -> Result {
    let spec = volume.spec.clone().unwrap_or_default();
    let name = volume.name_any();
    let is_others = spec.csi.is_some() || volume.annotations().contains_key(PROVISIONED_BY);
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    let (reason, text) = match spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") if local_path::is_ours(volume) => {
            return ignore(api.delete(&name, &DeleteParams::default()).await, &[404]);
        }
        Some("Delete") if !is_others => {
            let why = "no deletable volume plugin matched";
            ("VolumeFailedDelete", format!("error getting deleter volume plugin for volume {name:?}: {why}"))
        }
        Some("Recycle") => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
        _ => return Ok(()),
    };
    let status =
        json!({"phase": "Failed", "message": text, "lastPhaseTransitionTime": apimachinery::clock::now_rfc3339()});
    let failed = Patch::Merge(json!({ "status": status }));
    ignore(api.patch_status(&name, &PatchParams::default(), &failed).await, &[404])?;
    context.events.warning(volume, reason, text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_must_offer_all_that_the_claim_wants() {
        let claim = |size: &str, class: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": size}}}}))
            .unwrap()
        };
        let volume = |claim: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "storageClassName": "a", "capacity": {"storage": "1Gi"}, "claimRef": claim}}))
            .unwrap()
        };
        let free = volume(serde_json::Value::Null);
        assert!(placement::volume_fits(&claim("1Gi", "a"), &free));
        assert!(!placement::volume_fits(&claim("2Gi", "a"), &free));
        assert!(!placement::volume_fits(&claim("1Gi", "b"), &free));
        assert!(placement::volume_fits(&claim("1Gi", "a"), &volume(json!({"namespace": "n", "name": "c"}))));
        assert!(!placement::volume_fits(
            &claim("1Gi", "a"),
            &volume(json!({"namespace": "n", "name": "c", "uid": "other"}))
        ));
    }
}
