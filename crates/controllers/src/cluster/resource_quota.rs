//! ResourceQuotas: what their status says is used. (What exceeds a quota is refused by the API server itself, which
//! counts for itself.)

use std::collections::BTreeSet;
use std::time::Duration;

use api::quota::{Usage, covers, hard, usage, written};
use api::{KINDS, Kind, Verbs, kinds};
use informer::{Change, CustomResourceDefinition, Event, Informer, Key, Keyed as _, Metadata, Pod, Queue, Selection};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::cluster::custom_resources;
use crate::toolkit::controller::{Controller, Reconcile, all_keys};
use crate::toolkit::dynamic::{path, path_in, request};
use crate::toolkit::status::patch_status_if_changed;
use crate::toolkit::{Context, Result};

/// After so long a quota is counted anew, whatever was heard of.
const RESYNC_PERIOD: Duration = Duration::from_secs(300);

/// The kinds that no other controller watches and that quotas are about, each with the task that follows it.
#[derive(Default)]
struct Followed(Mutex<Vec<(&'static Kind, AbortHandle)>>);

pub fn start(context: Context) {
    let quotas = context.informers.of::<ResourceQuota>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let mut controller = Controller::of(&context, &quotas);
    let (pods, services) = (context.informers.of::<Pod>(), context.informers.of::<Service>());
    controller.watch(&pods, quotas_of(&quotas));
    controller.watch(&services, quotas_of(&quotas));
    controller.watch(&context.informers.of::<PersistentVolumeClaim>(), quotas_of(&quotas));
    controller.needs(&definitions);
    let queue = controller.queue().clone();
    controller.run(
        "resourcequota",
        2,
        ResourceQuotaController { context, quotas, definitions, followed: Followed::default(), queue },
    );
}

struct ResourceQuotaController {
    context: Context,
    quotas: Informer<ResourceQuota>,
    definitions: Informer<CustomResourceDefinition>,
    followed: Followed,
    queue: Queue,
}

impl Reconcile for ResourceQuotaController {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let custom = custom_resources::kinds(&self.definitions);
        let wanted = wanted(&self.quotas, &custom);
        self.followed.bring_to(&wanted, &self.context.client, &self.quotas, &self.queue);
        sync(&self.context, &self.quotas, &custom, key).await
    }
}

/// The quotas of the namespace in which an object changes.
fn quotas_of<K: informer::Keyed>(quotas: &Informer<ResourceQuota>) -> impl Fn(&Change<K>) -> Vec<Key> + use<K> {
    let quotas = quotas.clone();
    move |change| keys_in(&quotas, &change.object().key().namespace)
}

fn keys_in(quotas: &Informer<ResourceQuota>, namespace: &str) -> Vec<Key> {
    quotas.list_in(namespace).iter().map(|quota| quota.key()).collect()
}

/// What all quotas together are about, but for the kinds that are followed anyway.
fn wanted(quotas: &Informer<ResourceQuota>, custom: &[&'static Kind]) -> Vec<&'static Kind> {
    let mut wanted: Vec<&'static Kind> = Vec::new();
    for quota in quotas.list() {
        for kind in counted(&hard(&json!(&*quota)), custom) {
            let shared = [kinds::PODS, kinds::SERVICES, kinds::PERSISTENT_VOLUME_CLAIMS].contains(&kind);
            if !shared && !wanted.contains(&kind) {
                wanted.push(kind);
            }
        }
    }
    wanted
}

impl Followed {
    fn bring_to(&self, wanted: &[&'static Kind], client: &Client, quotas: &Informer<ResourceQuota>, queue: &Queue) {
        let mut followed = self.0.lock();
        followed.retain(|(kind, task)| {
            // In another version it is watched anew.
            let stays = wanted.iter().any(|wanted| std::ptr::eq(*wanted, *kind));
            if !stays {
                task.abort();
            }
            stays
        });
        for kind in wanted.iter().copied() {
            if !followed.iter().any(|(k, _)| *k == kind) {
                let (client, quotas, queue) = (client.clone(), quotas.clone(), queue.clone());
                let task = tasks::supervise("quota-watch", move || {
                    follow_metadata(kind, client.clone(), quotas.clone(), queue.clone())
                });
                followed.push((kind, task.abort_handle()));
            }
        }
    }
}

/// The same for kinds that no other controller watches: only their metadata is sent, and nothing of it is kept.
async fn follow_metadata(kind: &'static Kind, client: Client, quotas: Informer<ResourceQuota>, queue: Queue) {
    informer::follow::<Metadata>(client, Selection::all(path(kind)).metadata_only(), move |event| match event {
        // Changes between two watches.
        Event::ListComplete => all_keys(&quotas).into_iter().for_each(|key| queue.add(key)),
        Event::Applied(object) | Event::Deleted(object) => {
            let namespace = object.metadata.namespace.unwrap_or_default();
            keys_in(&quotas, &namespace).into_iter().for_each(|key| queue.add(key));
        }
        Event::ListBegins | Event::Listed(_) => {}
    })
    .await;
}

/// The kinds that a quota's limits are about. `custom` are those of definitions.
fn counted(limits: &Usage, custom: &[&'static Kind]) -> Vec<&'static Kind> {
    const BY_NAME: [&Kind; 6] = [
        kinds::CONFIG_MAPS,
        kinds::SECRETS,
        kinds::REPLICATION_CONTROLLERS,
        kinds::RESOURCE_QUOTAS,
        kinds::PERSISTENT_VOLUME_CLAIMS,
        kinds::SERVICES,
    ];
    let named = |name: &str| -> &'static Kind {
        // `services.nodeports` and its like are about services, too.
        let resource =
            name.split_once('.').filter(|(of, _)| kinds::SERVICES.is_named("", of)).map_or(name, |(of, _)| of);
        match BY_NAME.into_iter().find(|kind| kind.is_named("", resource)) {
            Some(kind) => kind,
            None if name.contains("storage") && !name.contains("ephemeral") => kinds::PERSISTENT_VOLUME_CLAIMS,
            None => kinds::PODS,
        }
    };
    let names: BTreeSet<String> = limits
        .keys()
        .map(|name| match name.strip_prefix("count/") {
            Some(resource) => resource.to_string(),
            None => named(name).resource(),
        })
        .collect();
    let is_counted = |k: &&'static Kind| k.verbs == Verbs::All && k.namespaced && names.contains(&k.resource());
    KINDS.iter().chain(custom.iter().copied()).filter(is_counted).collect()
}

async fn sync(
    context: &Context,
    quotas: &Informer<ResourceQuota>,
    custom: &[&'static Kind],
    key: &Key,
) -> Result<Option<Duration>> {
    let Some(quota) = quotas.get(key) else { return Ok(None) };
    let value = json!(&*quota);
    let limits = hard(&value);
    let mut used = Usage::new();
    for kind in counted(&limits, custom) {
        let list = request(&context.client, "GET", &path_in(kind, &key.namespace), &Value::Null).await?;
        for object in list["items"].as_array().into_iter().flatten().filter(|o| covers(&value, kind, o)) {
            for (name, amount) in usage(kind, object) {
                let sum = used.entry(name).or_default();
                *sum = *sum + amount;
            }
        }
    }
    let shown = limits.keys().map(|name| {
        let amount = used.get(name).copied().unwrap_or_default();
        (name.clone(), Quantity(written(&value, name, amount)))
    });
    let status =
        ResourceQuotaStatus { hard: quota.spec.as_ref().and_then(|s| s.hard.clone()), used: Some(shown.collect()) };
    patch_status_if_changed(context, quota.as_ref(), quota.status.as_ref(), &status).await?;
    Ok(Some(RESYNC_PERIOD))
}
