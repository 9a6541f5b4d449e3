//! The garbage collector: an object is deleted when all its owners are.
//!
//! It watches the metadata of every kind and keeps a graph of who owns whom ([`graph`]). When an owner is deleted its dependents
//! are, too; with `foregroundDeletion` it waits for those that block it, with `orphan` it lets them be ([`collect`]). That an owner
//! is absent is believed of the API alone, and of a kind that no API server serves nothing is believed.

mod collect;
mod graph;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{KINDS, Kind, Verbs, kinds};
use informer::{CustomResourceDefinition, Event, Key, Metadata, Queue, Selection, SyncLoop};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::Value;
use tasks::AbortOnDrop;
use tokio::task::JoinHandle;

use crate::cluster::custom_resources;
use crate::toolkit::controller::{Controller, Reconcile};
use crate::toolkit::discovery::{self, Served};
use crate::toolkit::{Context, Result, dynamic};
use collect::{Collector, Objects, Place};
use graph::{Graph, Node};

/// How long it is waited until all kinds are listed. A kind that can't be (its conversion doesn't work, say) must not hold up the others.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

type Shared = Arc<Mutex<Graph>>;
/// Is dropped when a kind has been listed.
type Listed = tokio::sync::mpsc::Sender<()>;
/// The same for a task that may be started again.
type Waited = Arc<Mutex<Option<Listed>>>;

/// Events own nothing and have no owners, and there are many.
fn is_tracked(kind: &Kind) -> bool {
    kind.verbs == Verbs::All && kind != kinds::EVENTS
}

pub fn start(context: Context) {
    let graph = Shared::default();
    let controller = Controller::of_keys();
    let queue = controller.queue().clone();
    let (synced, mut waiting) = tokio::sync::mpsc::channel::<()>(1);
    for kind in KINDS.iter().filter(|k| is_tracked(k)) {
        observe_kind(&context, kind, &graph, &queue, Some(synced.clone()));
    }
    let (of_custom, of, to) = (context.clone(), graph.clone(), queue.clone());
    let synced = Arc::new(Mutex::new(Some(synced)));
    tasks::supervise("garbage-definitions", move || {
        observe_custom(of_custom.clone(), of.clone(), to.clone(), synced.clone())
    });
    tasks::spawn("garbage-start", async move {
        let complete = Arc::new(AtomicBool::new(false));
        // All kinds are listed once every sender is gone.
        if tokio::time::timeout(LIST_TIMEOUT, waiting.recv()).await.is_ok() {
            complete.store(true, Ordering::Relaxed);
        } else {
            tracing::warn!("failed to list some kinds; the garbage collector orphans no dependents until it can");
            let complete = complete.clone();
            tasks::spawn("garbage-listed", async move {
                let _ = waiting.recv().await;
                complete.store(true, Ordering::Relaxed);
            });
        }
        let queue = controller.queue().clone();
        controller.run("garbage", 4, GarbageCollector { objects: Live(context), graph, complete, queue });
    });
}

struct GarbageCollector {
    objects: Live,
    graph: Shared,
    /// Whether all kinds have been listed.
    complete: Arc<AtomicBool>,
    queue: Queue,
}

impl Reconcile for GarbageCollector {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let complete = self.complete.load(Ordering::Relaxed);
        let next = Collector { objects: &self.objects, graph: &self.graph, complete }.collect(&key.name).await?;
        next.look_at.iter().for_each(|uid| self.queue.add(Key::new("", uid)));
        Ok(next.again)
    }
}

/// Observes the kinds of custom resource definitions, as they come and go.
async fn observe_custom(context: Context, graph: Shared, queue: Queue, synced: Waited) {
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let mut sync = SyncLoop::new(Duration::ZERO, None);
    sync.follow(&definitions);
    sync.synced().await;
    let mut observed: Vec<(&'static Kind, AbortOnDrop)> = Vec::new();
    loop {
        let wanted: Vec<&'static Kind> = custom_resources::kinds(&definitions);
        observed.retain(|(kind, _)| {
            // In another version it is watched anew.
            let stays = wanted.iter().any(|wanted| std::ptr::eq(*wanted, *kind));
            if !stays {
                graph.lock().forget(kind);
            }
            stays
        });
        for kind in wanted {
            if observed.iter().any(|(k, _)| *k == kind) {
                continue;
            }
            // Only the definitions that are there at the start are waited for.
            let done = synced.lock().clone();
            observed.push((kind, AbortOnDrop(observe_kind(&context, kind, &graph, &queue, done))));
        }
        *synced.lock() = None;
        sync.next().await;
    }
}

/// Observes a kind for as long as the task isn't aborted; `done` is dropped once its objects are listed.
fn observe_kind(
    context: &Context,
    kind: &'static Kind,
    graph: &Shared,
    queue: &Queue,
    done: Option<Listed>,
) -> JoinHandle<()> {
    let (context, graph, queue, done) = (context.clone(), graph.clone(), queue.clone(), Arc::new(Mutex::new(done)));
    tasks::supervise("garbage-watch", move || {
        observe(context.clone(), kind, graph.clone(), queue.clone(), done.clone())
    })
}

async fn observe(context: Context, kind: &'static Kind, graph: Shared, queue: Queue, synced: Waited) {
    let mut listed: HashSet<String> = HashSet::new();
    let enqueue = move |uids: Vec<String>| uids.iter().for_each(|uid| queue.add(Key::new("", uid)));
    let put = {
        let (graph, enqueue) = (graph.clone(), enqueue.clone());
        move |metadata: &ObjectMeta| {
            let uid = metadata.uid.clone()?;
            enqueue(graph.lock().put(&uid, Node::new(kind, metadata)));
            Some(uid)
        }
    };
    let selection = Selection::all(dynamic::path(kind)).metadata_only();
    informer::follow::<Metadata>(context.client, selection, move |event| match event {
        Event::ListBegins => listed.clear(),
        Event::Listed(object) => listed.extend(put(&object.metadata)),
        Event::Applied(object) => {
            put(&object.metadata);
        }
        Event::Deleted(object) => enqueue(object.metadata.uid.map(|uid| graph.lock().remove(&uid)).unwrap_or_default()),
        Event::ListComplete => {
            let missing = graph.lock().missing(kind, &listed);
            missing.iter().for_each(|uid| enqueue(graph.lock().remove(uid)));
            listed = HashSet::new();
            *synced.lock() = None;
        }
    })
    .await;
}

/// The API.
struct Live(Context);

impl Live {
    fn api(&self, place: &Place) -> Api<DynamicObject> {
        let (group, version) = place.api_version.rsplit_once('/').unwrap_or(("", &place.api_version));
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: place.api_version.clone(),
            kind: place.kind.clone(),
            plural: place.plural.clone(),
        };
        if place.namespace.is_empty() {
            Api::all_with(self.0.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.0.client.clone(), &place.namespace, &resource)
        }
    }
}

impl Objects for Live {
    async fn kind(&self, api_version: &str, kind: &str) -> Result<Option<Served>> {
        discovery::served(&self.0.client, api_version, kind).await
    }

    async fn get(&self, place: &Place) -> Result<Option<ObjectMeta>> {
        let api = self.api(place);
        Ok(api.get_metadata_opt(&discovery::segment(&place.name)).await?.map(|object| object.metadata))
    }

    async fn patch(&self, place: &Place, change: Value) -> Result<Option<String>> {
        let api = self.api(place);
        let patched = api
            .patch_metadata(&discovery::segment(&place.name), &PatchParams::default(), &Patch::Merge(change))
            .await?;
        Ok(patched.metadata.resource_version)
    }

    async fn delete(&self, place: &Place, uid: &str, version: Option<String>, policy: PropagationPolicy) -> Result {
        let api = self.api(place);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: version }),
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        api.delete(&discovery::segment(&place.name), &params).await.map(|_| ())
    }

    fn record_invalid_namespace(&self, place: &Place, uid: &str, reference: &OwnerReference) {
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            reference.api_version, reference.kind, place.namespace, reference.name, reference.uid, place.namespace
        );
        let of = ObjectReference {
            api_version: Some(place.api_version.clone()),
            kind: Some(place.kind.clone()),
            namespace: Some(place.namespace.clone()).filter(|n| !n.is_empty()),
            name: Some(place.name.clone()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        };
        self.0.events.record(of, "Warning", "OwnerRefInvalidNamespace", text);
    }
}
