//! How a loop runs: which changes add keys to its queue, which caches it waits for, and what reconciles a key (controller-runtime's builder).

use std::sync::Arc;
use std::time::Duration;

use informer::{Change, Informer, Key, Keyed, Queue, Synced};
use tokio::sync::OnceCell;

use super::adoption::{self, Selecting};
use super::{Context, Result};

/// A control loop: what it reads of caches, and how it reconciles the object of a key.
pub trait Reconcile: Send + Sync + 'static {
    /// Brings what there is nearer to what the object says. Returns the time after which the key is due again, if it is.
    ///
    /// # Errors
    /// An answer of the API that keeps it from that; the key is retried with back-off.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Option<Duration>>> + Send;
}

/// One whose watches read the same state.
impl<R: Reconcile> Reconcile for Arc<R> {
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Option<Duration>>> + Send {
        R::reconcile(self, key)
    }
}

/// A loop before it runs. Every cache that it watches or needs has been filled before the first key is reconciled.
pub struct Controller {
    queue: Queue,
    caches: Vec<Synced>,
}

impl Controller {
    /// A loop over the objects of a cache: every change of one adds its key.
    pub fn of<K: Keyed>(context: &Context, objects: &Informer<K>) -> Self {
        Self::of_some(context, objects, |_| true)
    }

    /// A loop over the objects of a cache, of whose changes only some matter.
    pub fn of_some<K: Keyed>(
        context: &Context,
        objects: &Informer<K>,
        matters: impl Fn(&Change<K>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let mut controller = Self::about(context, objects);
        controller.watch(objects, move |change| matters(change).then(|| change.object().key()));
        controller
    }

    /// A loop over the objects of a cache, to which no change adds a key yet.
    pub fn about<K: Keyed>(context: &Context, objects: &Informer<K>) -> Self {
        Controller { queue: Queue::of(objects, context.events.clone()), caches: vec![objects.sync_state()] }
    }

    /// A loop whose keys are of nothing that a cache holds.
    pub fn of_keys() -> Self {
        Controller { queue: Queue::default(), caches: Vec::new() }
    }

    /// The queue of the loop's keys.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Every change of a cache adds the keys that `keys` makes of it.
    pub fn watch<K: Keyed, I: IntoIterator<Item = Key>>(
        &mut self,
        cache: &Informer<K>,
        keys: impl Fn(&Change<K>) -> I + Send + Sync + 'static,
    ) {
        cache.enqueue_keys(&self.queue, keys);
        self.needs(cache);
    }

    /// Every change of a cache adds the one key of a loop that looks at everything in one go.
    pub fn watch_all<K: Keyed>(&mut self, cache: &Informer<K>) {
        self.watch_for_all(cache, |_| true);
    }

    /// The same for a cache of whose changes only some matter.
    pub fn watch_for_all<K: Keyed>(
        &mut self,
        cache: &Informer<K>,
        matters: impl Fn(&Change<K>) -> bool + Send + Sync + 'static,
    ) {
        self.watch(cache, move |change| matters(change).then(|| Key::new("", "all")));
    }

    /// A change of a child adds the keys of the owners whose it is, was or could be.
    pub fn owns<O: Selecting, C: Keyed>(&mut self, owners: &Informer<O>, children: &Informer<C>) {
        let owners = owners.clone();
        self.watch(children, move |change| adoption::owners_of(&owners, change));
    }

    /// The loop reads a cache whose changes add no keys.
    pub fn needs<K: Keyed>(&mut self, cache: &Informer<K>) {
        self.caches.push(cache.sync_state());
    }

    /// Runs the loop until the process ends, with `workers` keys at a time.
    pub fn run(self, name: &'static str, workers: usize, reconciler: impl Reconcile) {
        let (reconciler, caches) = (Arc::new(reconciler), Arc::new(self.caches));
        let filled = Arc::new(OnceCell::new());
        self.queue.work(name, workers, move |key| {
            let (reconciler, caches, filled) = (reconciler.clone(), caches.clone(), filled.clone());
            async move {
                filled.get_or_init(|| wait_for_all(&caches)).await;
                reconciler.reconcile(&key).await
            }
        });
    }
}

async fn wait_for_all(caches: &[Synced]) {
    for cache in caches {
        cache.clone().wait().await;
    }
}

/// The keys of all objects of a cache.
pub fn all_keys<K: Keyed>(objects: &Informer<K>) -> Vec<Key> {
    objects.list().iter().map(|object| object.key()).collect()
}
