//! Claims that live as long as their pod (generic ephemeral volumes, KEP-1698): made here, removed with the pod by the
//! garbage collector.

use std::time::Duration;

use informer::{Informer, Key, Pod, claims};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};

use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::{Context, Result, pods};

pub fn start(context: Context) {
    let (all, present) = (context.informers.of::<Pod>(), context.informers.of::<PersistentVolumeClaim>());
    let mut controller = Controller::of_some(&context, &all, |change| {
        claims(change.object()).iter().any(|claim| claim.template.is_some())
    });
    // A claim that is deleted while its pod is there is created again.
    let pods = all.clone();
    controller.watch(&present, move |change| {
        let claim = change.object();
        let owner = claim.owner_references().iter().find(|o| o.controller == Some(true) && o.kind == "Pod");
        let key = owner.map(|o| Key::new(&claim.namespace().unwrap_or_default(), &o.name));
        key.filter(|key| pods.get(key).is_some())
    });
    controller.run("ephemeral-volume", 2, EphemeralVolumeController { context, all, present });
}

struct EphemeralVolumeController {
    context: Context,
    all: Informer<Pod>,
    present: Informer<PersistentVolumeClaim>,
}

impl Reconcile for EphemeralVolumeController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.all.get(key).filter(|pod| !pods::is_deleting(pod)) else { return Ok(None) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for claim in claims(&pod) {
            let Some(template) = claim.template else { continue };
            if let Some(found) = self.present.get(&Key::new(&key.namespace, &claim.name)) {
                if !claim.belongs(pod.metadata.uid.as_deref(), found.owner_references()) {
                    let (of, user) = (&key.namespace, &key.name);
                    let why = format!("PVC {of}/{} was not created for pod {of}/{user} (pod is not owner)", claim.name);
                    let why = format!("ephemeral volume {}: {why}", claim.volume);
                    self.context.events.warning(pod.as_ref(), "FailedBinding", why);
                }
                continue;
            }
            let mut new =
                PersistentVolumeClaim { spec: Some(template.spec.clone()), ..PersistentVolumeClaim::default() };
            if let Some(metadata) = &template.metadata {
                new.metadata.labels = metadata.labels.clone();
                new.metadata.annotations = metadata.annotations.clone();
            }
            let name = claim.name;
            new.metadata.name = Some(name.clone());
            new.metadata.namespace = Some(key.namespace.clone());
            new.metadata.owner_references = Some(vec![pods::owner(pod.as_ref())]);
            match api.create(&PostParams::default(), &new).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
                Err(error) => {
                    if !pods::is_of_namespace_that_ends(&error) {
                        let why = informer::error_message(&error);
                        let text = format!("ephemeral volume {}: create PVC {name}: {why}", claim.volume);
                        self.context.events.warning(pod.as_ref(), "FailedBinding", text);
                    }
                    // What a quota forbids today it may allow tomorrow.
                    return Err(error);
                }
            }
        }
        Ok(None)
    }
}
