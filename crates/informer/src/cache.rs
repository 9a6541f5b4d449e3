//! Shared informers: caches of objects that watches keep up to date.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::metadata::metadata_of;
use crate::pod;
use crate::queue::{Key, Queue};
use crate::reflector::{self, Selection, Store};

/// Objects that an informer can hold.
pub trait Keyed: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {
    /// Namespace and name.
    fn key(&self) -> Key {
        key_of(self.meta())
    }
}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Keyed for K {}

fn key_of(meta: &ObjectMeta) -> Key {
    Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}

/// A difference between two states of the cache.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// The object was added or changed; `old` is the former state, if there was one.
    Applied {
        /// The former state.
        old: Option<Arc<K>>,
        /// The present state.
        new: Arc<K>,
    },
    /// The object was deleted; this is its last state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is, or last was.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Applied { new, .. } => new,
            Change::Deleted(old) => old,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Inner<K> {
    transform: fn(&mut dyn Any),
    items: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    /// Counts changes, for `wait_for`.
    changes: watch::Sender<u64>,
}

/// Whether a cache has been filled for the first time.
#[derive(Debug, Clone)]
pub struct Synced(watch::Receiver<bool>);

impl Synced {
    /// Waits until it has.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|synced| *synced).await;
    }
}

/// A cache of all objects of a kind (or those that a selector picks). Clones share it.
pub struct Informer<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { inner: self.inner.clone() }
    }
}

impl<K: Keyed> Informer<K> {
    /// Watches the objects of `api` that the selectors pick, until the process ends; an empty selector picks all.
    pub fn start(api: Api<K>, fields: &str, labels: &str) -> Self {
        Self::start_with(api, fields, labels, |_| ())
    }

    /// The same; `transform` takes out of each object what isn't to be kept.
    fn start_with(api: Api<K>, fields: &str, labels: &str, transform: fn(&mut dyn Any)) -> Self {
        let selection =
            Selection { fields: fields.into(), labels: labels.into(), ..Selection::all(api.resource_url()) };
        let client = api.into_client();
        let inner = Arc::new(Inner {
            transform,
            items: RwLock::default(),
            handlers: RwLock::default(),
            synced: watch::channel(false).0,
            changes: watch::channel(0).0,
        });
        let of = inner.clone();
        tasks::supervise("informer", move || {
            let store = Decoding { inner: of.clone(), listed: BTreeSet::new() };
            reflector::run(client.clone(), selection.clone(), Box::new(store))
        });
        Informer { inner }
    }

    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.items.read().get(key).cloned()
    }

    /// All objects, sorted by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.items.read().values().cloned().collect()
    }

    /// The objects of a namespace.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let items = self.inner.items.read();
        let from = Key::new(namespace, "");
        items.range(from..).take_while(|(k, _)| k.namespace == namespace).map(|(_, v)| v.clone()).collect()
    }

    /// Calls `handler` for each object in the cache, and for every change from now on. It must not block.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        // The lock is held so that no change is missed in between.
        let mut handlers = self.inner.handlers.write();
        for object in self.list() {
            handler(&Change::Applied { old: None, new: object });
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until `shown` holds for an object in the cache, so that the next reconciliation sees the caller's own write. Gives up after some
    /// seconds; the next reconciliation decides then.
    pub async fn wait_for(&self, key: &Key, shown: impl Fn(Option<&K>) -> bool) {
        let mut changes = self.inner.changes.subscribe();
        let wait = async {
            while !shown(self.get(key).as_deref()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), wait).await;
    }

    /// Whether the cache has been filled once.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Waits until the cache has been filled for the first time.
    pub async fn synced(&self) {
        self.sync_state().wait().await;
    }

    /// Whether the cache has been filled, without its kind.
    pub fn sync_state(&self) -> Synced {
        Synced(self.inner.synced.subscribe())
    }

    /// Adds the keys that `keys` makes of every change to a queue (controller-runtime's `EnqueueRequestsFromMapFunc`).
    pub fn enqueue_keys<I: IntoIterator<Item = Key>>(
        &self,
        queue: &Queue,
        keys: impl Fn(&Change<K>) -> I + Send + Sync + 'static,
    ) {
        let queue = queue.clone();
        self.on_change(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
    }
}

impl<K: Keyed> Inner<K> {
    fn put(&self, mut object: K) {
        let handlers = self.handlers.read();
        // No controller reads managedFields, which may be larger than the rest of the object. A patch that omits them keeps them.
        object.meta_mut().managed_fields = None;
        (self.transform)(&mut object);
        let new = Arc::new(object);
        let old = self.items.write().insert(new.key(), new.clone());
        notify(&handlers, &Change::Applied { old, new });
        self.changes.send_modify(|n| *n += 1);
    }

    fn remove(&self, key: &Key) {
        let handlers = self.handlers.read();
        let old = self.items.write().remove(key);
        if let Some(old) = old {
            notify(&handlers, &Change::Deleted(old));
            self.changes.send_modify(|n| *n += 1);
        }
    }
}

fn notify<K>(handlers: &[Handler<K>], change: &Change<K>) {
    for handler in handlers {
        // A handler that panics must not end the cache, which all control loops share.
        let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(change)));
        if heard.is_err() {
            tracing::error!(kind = std::any::type_name::<K>(), "an event handler of an informer panicked");
        }
    }
}

/// Decodes what a reflector hears, and keeps it.
struct Decoding<K> {
    inner: Arc<Inner<K>>,
    listed: BTreeSet<Key>,
}

/// What an object is called, and the revision that it is of.
struct Identity {
    key: Key,
    revision: Option<String>,
}

impl Identity {
    fn of(meta: &ObjectMeta) -> Self {
        Identity { key: key_of(meta), revision: meta.resource_version.clone() }
    }
}

impl<K: Keyed> Decoding<K> {
    /// Keeps an object; returns what it is called, also when it can't be decoded. What can't be decoded stays as it was known before.
    fn keep(&self, object: &str) -> Option<Identity> {
        match serde_json::from_str::<K>(object) {
            Ok(decoded) => {
                let identity = Identity::of(decoded.meta());
                self.inner.put(decoded);
                Some(identity)
            }
            Err(error) => {
                let identity = metadata_of(object).map(|meta| Identity::of(&meta));
                let (kind, key) = (std::any::type_name::<K>(), identity.as_ref().map(|identity| &identity.key));
                tracing::error!(kind, ?key, %error, "failed to decode an object; control loops don't see its change");
                identity
            }
        }
    }
}

impl<K: Keyed> Store for Decoding<K> {
    fn begin(&mut self) {
        self.listed.clear();
    }

    fn listed(&mut self, object: &str) {
        self.listed.extend(self.keep(object).map(|identity| identity.key));
    }

    fn complete(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<Key> = self.inner.items.read().keys().filter(|key| !listed.contains(key)).cloned().collect();
        gone.iter().for_each(|key| self.inner.remove(key));
        self.inner.synced.send_replace(true);
    }

    fn applied(&mut self, object: &str) -> Option<String> {
        self.keep(object)?.revision
    }

    fn deleted(&mut self, object: &str) -> Option<String> {
        let identity = Identity::of(&metadata_of(object)?);
        self.inner.remove(&identity.key);
        identity.revision
    }
}

/// The informers of a process, one per kind, started when first asked for. Of pods they keep what control loops read:
/// ask for [`pod::Pod`].
#[derive(Clone)]
pub struct Informers {
    client: Client,
    /// By type and field selector.
    #[allow(clippy::type_complexity)]
    started: Arc<Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Informers that use this client.
    pub fn new(client: Client) -> Self {
        Informers { client, started: Arc::default() }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of all objects of kind `K`.
    pub fn of<K: Keyed>(&self) -> Informer<K> {
        self.selected("")
    }

    /// The informer of the objects of kind `K` that a field selector matches, like `spec.nodeName=NAME`.
    pub fn selected<K: Keyed>(&self, fields: &str) -> Informer<K> {
        let mut started = self.started.lock();
        let informer = started.entry((TypeId::of::<K>(), fields.into())).or_insert_with(|| {
            Box::new(Informer::<K>::start_with(Api::all(self.client.clone()), fields, "", pod::intern_template))
        });
        match informer.downcast_ref::<Informer<K>>() {
            Some(informer) => informer.clone(),
            None => unreachable!("the map is keyed by type"),
        }
    }
}
