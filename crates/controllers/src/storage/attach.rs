//! Volumes of CSI drivers are attached to the nodes that need them: a VolumeAttachment says so, and the driver's own attacher does it.
//! Drivers that say `attachRequired: false` have none.

use std::collections::BTreeSet;
use std::time::Duration;

use informer::{Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{claims_of, uses};
use crate::{Context, Result};

#[derive(Clone)]
struct Caches {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
}

/// The name by which everybody finds the attachment of a volume to a node (the kubelet and the attachers among them).
fn name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", pki::sha256_hex(format!("{handle}{driver}{node}").as_bytes()))
}

/// Driver and handle of a volume that a driver's attacher attaches.
fn csi(caches: &Caches, volume: &PersistentVolume) -> Option<(String, String)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    let driver = caches.drivers.get(&Key::new("", &source.driver));
    let required = driver.is_none_or(|d| d.spec.attach_required != Some(false));
    required.then(|| (source.driver.clone(), source.volume_handle.clone()))
}

/// Keys are those of volumes: each is attached where pods need it.
pub fn start(context: Context) {
    let caches = Caches {
        pods: context.informers.of(),
        claims: context.informers.of(),
        volumes: context.informers.of(),
        drivers: context.informers.of(),
        attachments: context.informers.of(),
    };
    let queue = Queue::default();
    let (add, claims) = (queue.clone(), caches.claims.clone());
    caches.pods.on_change(move |change| {
        let pod = change.object();
        for claim in claims_of(pod) {
            let claim = claims.get(&Key::new(pod.metadata.namespace.as_deref().unwrap_or(""), &claim));
            if let Some(volume) = claim.and_then(|c| c.spec.as_ref()?.volume_name.clone()) {
                add.add(Key::new("", &volume));
            }
        }
    });
    let add = queue.clone();
    caches.claims.on_change(move |change| {
        if let Some(volume) = change.object().spec.as_ref().and_then(|s| s.volume_name.as_ref()) {
            add.add(Key::new("", volume));
        }
    });
    let add = queue.clone();
    caches.volumes.on_change(move |change| {
        if change.object().spec.as_ref().is_some_and(|s| s.csi.is_some()) {
            add.add(change.object().key());
        }
    });
    let add = queue.clone();
    caches.attachments.on_change(move |change| {
        if let Some(volume) = &change.object().spec.source.persistent_volume_name {
            add.add(Key::new("", volume));
        }
    });
    queue.work("attach", 2, move |key| {
        let (context, caches) = (context.clone(), caches.clone());
        async move {
            informer::synced!(caches.pods, caches.claims, caches.volumes, caches.drivers, caches.attachments);
            reconcile(&context, &caches, &key).await.map(|()| None::<Duration>)
        }
    });
}

/// The nodes whose pods need a volume.
fn nodes(caches: &Caches, volume: &PersistentVolume) -> BTreeSet<String> {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let Some((namespace, claim)) = reference.and_then(|r| Some((r.namespace.clone()?, r.name.clone()?))) else {
        return BTreeSet::new();
    };
    let of = caches.pods.list_in(&namespace).into_iter().filter(|p| uses(p, &claim));
    of.filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect()
}

async fn reconcile(context: &Context, caches: &Caches, key: &Key) -> Result {
    let volume = caches.volumes.get(key);
    let csi = volume.as_ref().and_then(|v| csi(caches, v));
    let wanted = match (&volume, &csi) {
        (Some(volume), Some(_)) => nodes(caches, volume),
        _ => BTreeSet::new(),
    };
    let api: Api<VolumeAttachment> = Api::all(context.client.clone());
    let of = |a: &VolumeAttachment| a.spec.source.persistent_volume_name.as_deref() == Some(&key.name);
    let present: Vec<_> = caches.attachments.list().into_iter().filter(|a| of(a)).collect();
    for attachment in &present {
        if !wanted.contains(&attachment.spec.node_name) && attachment.metadata.deletion_timestamp.is_none() {
            crate::ignore(api.delete(&attachment.name_any(), &DeleteParams::default()).await, &[404])?;
        }
    }
    let Some((driver, handle)) = csi else { return Ok(()) };
    for node in wanted.iter().filter(|node| !present.iter().any(|a| a.spec.node_name == **node)) {
        let attachment = json!({"metadata": {"name": name(&handle, &driver, node)},
            "spec": {"attacher": driver, "nodeName": node, "source": {"persistentVolumeName": key.name}}});
        let attachment: VolumeAttachment = serde_json::from_value(attachment).map_err(kube::Error::SerdeError)?;
        crate::ignore(api.create(&PostParams::default(), &attachment).await, &[409])?;
    }
    Ok(())
}
