//! The garbage collector: objects go when all their owners are gone.
//!
//! It watches the metadata of every kind and keeps a graph of who owns whom. An owner that goes sends its dependents
//! after it; with `foregroundDeletion` it waits for them, with `orphan` it lets them be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{KINDS, Kind, Verbs};
use futures::StreamExt as _;
use informer::{Key, Queue};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;

use crate::{Context, Result, custom_resources};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Until an object is looked at again that changed while it was to go.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
struct Node {
    kind: &'static Kind,
    namespace: String,
    name: String,
    owners: Vec<String>,
    deleting: bool,
    finalizers: Vec<String>,
}

#[derive(Default)]
struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    fn put(&mut self, uid: String, node: Node) {
        self.unlink(&uid);
        for owner in &node.owners {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
        }
        self.nodes.insert(uid, node);
    }

    fn unlink(&mut self, uid: &str) {
        let Some(old) = self.nodes.get(uid) else { return };
        for owner in &old.owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    fn remove(&mut self, uid: &str) {
        self.unlink(uid);
        self.nodes.remove(uid);
    }

    /// Drops all objects of a kind that is no more.
    fn forget(&mut self, kind: &Kind) {
        let gone: Vec<String> = self.nodes.iter().filter(|(_, n)| n.kind == kind).map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.remove(uid));
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

type Shared = Arc<Mutex<Graph>>;

fn api_resource(kind: &Kind) -> ApiResource {
    ApiResource {
        group: kind.group.into(),
        version: kind.version.into(),
        api_version: kind.api_version(),
        kind: kind.kind.into(),
        plural: kind.plural.into(),
    }
}

fn api(client: &Client, node: &Node) -> Api<DynamicObject> {
    let resource = api_resource(node.kind);
    if node.kind.namespaced {
        Api::namespaced_with(client.clone(), &node.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// Kinds whose objects come and go too often to own anything or be owned.
fn is_tracked(kind: &Kind) -> bool {
    kind.verbs == Verbs::All && !matches!(kind.plural, "events" | "leases")
}

pub fn start(context: Context) {
    let graph = Shared::default();
    let queue = Queue::default();
    let (synced, mut waiting) = tokio::sync::mpsc::channel::<()>(1);
    for kind in KINDS.iter().filter(|k| is_tracked(k)) {
        tokio::spawn(observe(context.client.clone(), kind, graph.clone(), queue.clone(), synced.clone()));
    }
    tokio::spawn(observe_custom(context.clone(), graph.clone(), queue.clone(), synced));
    tokio::spawn(async move {
        // All kinds are listed once every sender is gone; before that, an owner may only not be known yet.
        let _ = waiting.recv().await;
        queue.work("garbage", 4, move |key| {
            let (context, graph) = (context.clone(), graph.clone());
            async move { collect(&context, &graph, &key.name).await }
        });
    });
}

/// Observes the kinds of custom resource definitions, as they come and go.
async fn observe_custom(context: Context, graph: Shared, queue: Queue, synced: tokio::sync::mpsc::Sender<()>) {
    let definitions = context.informers.of::<CustomResourceDefinition>();
    let changed = Arc::new(tokio::sync::Notify::new());
    let wake = changed.clone();
    definitions.on_change(move |_| wake.notify_one());
    definitions.synced().await;
    let mut synced = Some(synced);
    let mut observed: Vec<(&'static Kind, tokio::task::AbortHandle)> = Vec::new();
    loop {
        let wanted: Vec<&'static Kind> = custom_resources::kinds(&definitions);
        observed.retain(|(kind, task)| {
            let stays = wanted.contains(kind);
            if !stays {
                task.abort();
                graph.lock().forget(kind);
            }
            stays
        });
        for kind in wanted {
            if observed.iter().any(|(k, _)| *k == kind) {
                continue;
            }
            // Only the definitions that are there at the start are waited for.
            let done = synced.clone().unwrap_or_else(|| tokio::sync::mpsc::channel(1).0);
            let task = tokio::spawn(observe(context.client.clone(), kind, graph.clone(), queue.clone(), done));
            observed.push((kind, task.abort_handle()));
        }
        synced = None;
        changed.notified().await;
    }
}

async fn observe(
    client: Client,
    kind: &'static Kind,
    graph: Shared,
    queue: Queue,
    synced: tokio::sync::mpsc::Sender<()>,
) {
    let all: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &api_resource(kind));
    let mut stream = watcher::watcher(all, watcher::Config::default()).boxed();
    let mut synced = Some(synced);
    let mut listed: HashSet<String> = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                if let Some(uid) = object.uid() {
                    listed.insert(uid.clone());
                    apply(kind, uid, &object, &graph, &queue);
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some(uid) = object.uid() {
                    gone(&uid, &graph, &queue);
                }
            }
            Ok(Event::InitDone) => {
                let known: Vec<String> = {
                    let graph = graph.lock();
                    let missing =
                        graph.nodes.iter().filter(|(uid, n)| std::ptr::eq(n.kind, kind) && !listed.contains(*uid));
                    missing.map(|(uid, _)| uid.clone()).collect()
                };
                known.iter().for_each(|uid| gone(uid, &graph, &queue));
                synced = None;
            }
            Err(error) => {
                tracing::debug!(kind = kind.plural, %error, "a watch was interrupted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    drop(synced);
}

fn apply(kind: &'static Kind, uid: String, object: &PartialObjectMeta<DynamicObject>, graph: &Shared, queue: &Queue) {
    let node = Node {
        kind,
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        owners: object.owner_references().iter().map(|o| o.uid.clone()).collect(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        finalizers: object.finalizers().to_vec(),
    };
    let look = !node.owners.is_empty() || node.deleting;
    graph.lock().put(uid.clone(), node);
    if look {
        queue.add(Key::new("", &uid));
    }
}

fn gone(uid: &str, graph: &Shared, queue: &Queue) {
    let (dependents, owners) = {
        let mut graph = graph.lock();
        let owners = graph.nodes.get(uid).map(|n| n.owners.clone()).unwrap_or_default();
        graph.remove(uid);
        (graph.dependents_of(uid), owners)
    };
    // Those it owned may have to go; those that waited for it may go.
    for other in dependents.iter().chain(&owners) {
        queue.add(Key::new("", other));
    }
}

async fn collect(context: &Context, graph: &Shared, uid: &str) -> Result<Option<Duration>> {
    let (node, dependents, alive, foreground, foreign) = {
        let graph = graph.lock();
        let Some(node) = graph.nodes.get(uid).cloned() else { return Ok(None) };
        let has = |n: &Node, f: &str| n.finalizers.iter().any(|x| x == f);
        // An owner is of the same namespace, or of none.
        let is_near = |n: &&Node| n.namespace.is_empty() || n.namespace == node.namespace;
        let known: Vec<&Node> = node.owners.iter().filter_map(|o| graph.nodes.get(o)).collect();
        let foreign: Vec<String> = known.iter().filter(|n| !is_near(n)).map(|n| n.name.clone()).collect();
        let owners: Vec<&Node> = known.into_iter().filter(is_near).collect();
        let alive = owners.iter().any(|n| !(n.deleting && has(n, FOREGROUND)));
        let waited_for = owners.iter().any(|n| n.deleting && has(n, FOREGROUND));
        (node, graph.dependents_of(uid), alive, waited_for, foreign)
    };
    if !foreign.is_empty() && !node.deleting {
        tell_foreign(context, &node, uid, &foreign).await?;
    }
    let client = &context.client;
    if node.deleting && node.finalizers.iter().any(|f| f == ORPHAN) {
        for dependent in &dependents {
            disown(client, graph, dependent, uid).await?;
        }
        return remove_finalizer(client, &node, ORPHAN).await.map(|()| None);
    }
    if node.deleting && node.finalizers.iter().any(|f| f == FOREGROUND) {
        if dependents.is_empty() {
            return remove_finalizer(client, &node, FOREGROUND).await.map(|()| None);
        }
        for dependent in &dependents {
            let other = graph.lock().nodes.get(dependent).cloned();
            if let Some(other) = other.filter(|n| !n.deleting) {
                delete(client, &other, dependent, true).await?;
            }
        }
        return Ok(None);
    }
    if node.owners.is_empty() || node.deleting || alive {
        return Ok(None);
    }
    // Each kind has a watch of its own, and one may be behind another: an owner may be there that the graph doesn't know yet, or the object
    // may have been let go already. So the API has the last word, as with upstream.
    let Some(object) =
        api(client, &node).get_metadata_opt(&node.name).await?.filter(|o| o.uid().as_deref() == Some(uid))
    else {
        return Ok(None);
    };
    if object.owner_references().is_empty() {
        return Ok(None);
    }
    for owner in object.owner_references() {
        let judged = graph.lock().nodes.contains_key(&owner.uid);
        if !judged && is_there(context, &node.namespace, owner).await? {
            return Ok(None);
        }
    }
    let seen = Preconditions { uid: Some(uid.into()), resource_version: object.resource_version() };
    match delete_as(client, &node, seen, foreground).await {
        // It was changed meanwhile, perhaps let go.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(AGAIN)),
        other => crate::ignore(other, &[404]).map(|()| None),
    }
}

/// Whether an owner is there that the graph doesn't know.
async fn is_there(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<bool> {
    let is_meant = |kind: &&Kind| kind.kind == owner.kind && kind.api_version() == owner.api_version;
    let built_in = KINDS.iter().find(is_meant);
    let custom =
        || custom_resources::kinds(&context.informers.of::<CustomResourceDefinition>()).into_iter().find(is_meant);
    // What has no kind any more can't be there.
    let Some(kind) = built_in.or_else(custom) else { return Ok(false) };
    let (namespace, name) = (namespace.to_string(), owner.name.clone());
    let node = Node { kind, namespace, name, owners: Vec::new(), deleting: false, finalizers: Vec::new() };
    let found = api(&context.client, &node).get_metadata_opt(&node.name).await?;
    Ok(found.is_some_and(|found| found.uid().as_ref() == Some(&owner.uid)))
}

/// Tells of owner references that lead to another namespace, and so to nothing.
async fn tell_foreign(context: &Context, node: &Node, uid: &str, foreign: &[String]) -> Result {
    let Ok(object) = api(&context.client, node).get_metadata(&node.name).await else { return Ok(()) };
    for owner in object.owner_references().iter().filter(|o| foreign.contains(&o.name)) {
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version, owner.kind, node.namespace, owner.name, owner.uid, node.namespace
        );
        let of = ObjectReference {
            api_version: Some(node.kind.api_version()),
            kind: Some(node.kind.kind.into()),
            namespace: Some(node.namespace.clone()),
            name: Some(node.name.clone()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        };
        context.events.record(of, "Warning", "OwnerRefInvalidNamespace", text);
    }
    Ok(())
}

async fn delete(client: &Client, node: &Node, uid: &str, foreground: bool) -> Result {
    let this = Preconditions { uid: Some(uid.into()), resource_version: None };
    crate::ignore(delete_as(client, node, this, foreground).await, &[404, 409])
}

async fn delete_as(client: &Client, node: &Node, seen: Preconditions, foreground: bool) -> kube::Result<()> {
    let params = if foreground { DeleteParams::foreground() } else { DeleteParams::background() };
    let params = DeleteParams { preconditions: Some(seen), ..params };
    api(client, node).delete(&node.name, &params).await.map(|_| ())
}

async fn remove_finalizer(client: &Client, node: &Node, finalizer: &str) -> Result {
    let left: Vec<&String> = node.finalizers.iter().filter(|f| *f != finalizer).collect();
    let patch = Patch::Merge(json!({"metadata": {"finalizers": left}}));
    crate::ignore(api(client, node).patch(&node.name, &PatchParams::default(), &patch).await, &[404])
}

async fn disown(client: &Client, graph: &Shared, dependent: &str, owner: &str) -> Result {
    let Some(node) = graph.lock().nodes.get(dependent).cloned() else { return Ok(()) };
    let api = api(client, &node);
    let Some(object) = api.get_opt(&node.name).await? else { return Ok(()) };
    let left: Vec<_> = object.owner_references().iter().filter(|o| o.uid != owner).collect();
    let patch = json!({"metadata": {"uid": dependent, "ownerReferences": left}});
    crate::ignore(api.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await, &[404, 409])
}
