//! ResourceQuotas: what their status says is used. (What exceeds a quota is refused by the API server itself, which
//! counts for itself.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::quota::{Usage, covers, hard, usage, written};
use api::{KINDS, Kind, Verbs, kinds};
use futures::StreamExt as _;
use informer::{Informer, Key, Keyed as _, Pod, Queue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::cluster::custom_resources;
use crate::toolkit::dynamic::{path, request};
use crate::toolkit::{Context, Result, discovery, ignore};

/// After so long a quota is counted anew, whatever was heard of.
const RESYNC_PERIOD: Duration = Duration::from_secs(300);

/// The kinds that no other controller watches and that quotas are about, each with the task that follows it.
#[derive(Clone, Default)]
struct Followed(Arc<Mutex<Vec<(&'static Kind, AbortHandle)>>>);

pub fn start(context: Context) {
    let quotas = context.informers.of::<ResourceQuota>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let queue = Queue::of(&quotas, context.events.clone());
    let followed = Followed::default();
    let add = queue.clone();
    quotas.on_change(move |change| add.add(change.object().key()));
    follow::<Pod>(&context, &quotas, &queue);
    follow::<Service>(&context, &quotas, &queue);
    follow::<PersistentVolumeClaim>(&context, &quotas, &queue);
    let again = queue.clone();
    queue.work("resourcequota", 2, move |key| {
        let (context, quotas, definitions) = (context.clone(), quotas.clone(), definitions.clone());
        let (followed, again) = (followed.clone(), again.clone());
        async move {
            informer::synced!(quotas, definitions);
            let custom = custom_resources::kinds(&definitions);
            followed.bring_to(&wanted(&quotas, &custom), &context.client, &quotas, &again);
            reconcile(&context, &quotas, &custom, &key).await
        }
    });
}

/// Looks at the quotas of a namespace whenever an object of a kind changes there.
fn follow<K: informer::Keyed>(context: &Context, quotas: &Informer<ResourceQuota>, queue: &Queue) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    context.informers.of::<K>().on_change(move |change| {
        let namespace = change.object().namespace().unwrap_or_default();
        quotas.list_in(&namespace).iter().for_each(|quota| queue.add(quota.key()));
    });
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
    let all = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &discovery::resource(kind));
    let mut changes = watcher::watcher(all, watcher::Config::default()).boxed();
    while let Some(event) = changes.next().await {
        match event {
            // What changed while nobody listened.
            Ok(Event::InitDone) => quotas.list().iter().for_each(|quota| queue.add(quota.key())),
            Ok(Event::Apply(object) | Event::Delete(object)) => {
                let namespace = object.namespace().unwrap_or_default();
                quotas.list_in(&namespace).iter().for_each(|quota| queue.add(quota.key()));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a watch was interrupted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
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

async fn reconcile(
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
        let list = request(&context.client, "GET", &path(kind, &key.namespace), &Value::Null).await?;
        for object in list["items"].as_array().into_iter().flatten().filter(|o| covers(&value, kind, o)) {
            for (name, amount) in usage(kind, object) {
                let sum = used.entry(name).or_default();
                *sum = *sum + amount;
            }
        }
    }
    let shown: serde_json::Map<String, Value> = limits
        .keys()
        .map(|name| (name.clone(), written(&value, name, used.get(name).copied().unwrap_or_default()).into()))
        .collect();
    let status = json!({"hard": value["spec"]["hard"], "used": shown});
    if value["status"] != status {
        let api: Api<ResourceQuota> = Api::namespaced(context.client.clone(), &key.namespace);
        // Names that are no longer limited must go: null removes them.
        let mut patch = json!({ "status": status });
        for part in ["hard", "used"] {
            for (name, _) in value["status"][part].as_object().into_iter().flatten() {
                if patch["status"][part].get(name).is_none() {
                    patch["status"][part][name] = Value::Null;
                }
            }
        }
        ignore(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404])?;
    }
    Ok(Some(RESYNC_PERIOD))
}
