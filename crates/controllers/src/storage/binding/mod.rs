//! Persistent volumes: claims are bound to volumes, volumes made on demand, and both protected while in use.
//!
//! The provisioner `timonel.io/local-path` gives a folder on the node that the scheduler chose for the first pod. The
//! folder is made, and later removed, by that node's agent.

mod claims;
mod provision;
mod volumes;

use std::sync::Arc;

use informer::{Informer, Key, Keyed as _, Pod};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

use super::snapshots;
use crate::toolkit::Context;
use crate::toolkit::controller::Controller;
use claims::Claims;
use volumes::Volumes;

/// On a volume: who made it, and deletes it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// What the loop over claims and the one over volumes share.
pub(super) struct Binder {
    context: Context,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

pub fn start(context: Context) {
    let binder = Binder {
        claims: context.informers.of(),
        volumes: context.informers.of(),
        classes: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        context: context.clone(),
    };
    if context.config.local_storage {
        tasks::spawn("storage-class", provision::ensure_class(context.clone()));
    }
    let binder = Arc::new(binder);
    let mut claims = Controller::of(&context, &binder.claims);
    let mut volumes = Controller::of(&context, &binder.volumes);
    volumes.watch(&binder.claims, |change| {
        let volume = change.object().spec.as_ref().and_then(|s| s.volume_name.as_ref());
        volume.map(|volume| Key::new("", volume))
    });
    claims.watch(&binder.volumes, |change| {
        let claim = change.object().spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        claim.map(|c| Key::new(c.namespace.as_deref().unwrap_or(""), c.name.as_deref().unwrap_or("")))
    });
    let all = binder.claims.clone();
    claims.watch(&binder.classes, move |_| {
        // Claims may have waited for this class, or for a default.
        let waits = |c: &&Arc<PersistentVolumeClaim>| c.spec.as_ref().is_none_or(|s| s.volume_name.is_none());
        all.list().iter().filter(waits).map(|claim| claim.key()).collect::<Vec<_>>()
    });
    let all = binder.claims.clone();
    claims.watch(&binder.pods, move |change| {
        // The end of a pod may free a claim that is to be deleted.
        let pod = change.object();
        let namespace = pod.namespace().unwrap_or_default();
        let keys = claims_of(pod).into_iter().map(|name| Key::new(&namespace, &name));
        let is_deleted = |key: &Key| all.get(key).is_some_and(|c| c.metadata.deletion_timestamp.is_some());
        keys.filter(is_deleted).collect::<Vec<_>>()
    });
    claims.needs(&binder.nodes);
    if context.config.snapshots {
        let (context, claims) = (context.events("snapshot-controller"), claims.queue().clone());
        tasks::until_done("snapshot-controller", move || snapshots::run(context.clone(), claims.clone()));
    }
    claims.run("claims", 2, Claims(binder.clone()));
    volumes.run("volumes", 2, Volumes(binder));
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

pub(super) fn without(finalizers: &[String], gone: &str) -> Vec<String> {
    finalizers.iter().filter(|f| *f != gone).cloned().collect()
}
