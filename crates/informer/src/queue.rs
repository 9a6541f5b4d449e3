//! Work queues with per-key back-off, like client-go's util/workqueue.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apimachinery::ExponentialBackoff;
use futures::FutureExt as _;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::quarantine::{self, Quarantine, Quarantined};

/// Namespace and name of an object; the namespace is empty for kinds without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `metadata.namespace`, or empty.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// The key of a namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

#[derive(Default)]
struct State {
    /// By priority, then in the order of arrival.
    ready: BTreeMap<(i32, u64), Key>,
    arrivals: u64,
    priorities: HashMap<Key, i32>,
    /// Keys in `ready`, and keys that go there when their current worker is done (workqueue's `dirty` set).
    dirty: HashSet<Key>,
    processing: HashSet<Key>,
    failures: HashMap<Key, u32>,
    /// When delayed keys are added.
    delayed: HashMap<Key, Instant>,
}

impl State {
    fn push(&mut self, key: Key) {
        self.arrivals += 1;
        let priority = self.priorities.get(&key).copied().unwrap_or(0);
        self.ready.insert((priority, self.arrivals), key);
    }
}

/// Records an event about an object whose reconciliation panicked.
pub(crate) type PanicObserver = Arc<dyn Fn(&Key, &'static str, &str) + Send + Sync>;
/// The version of an object, for the quarantine.
pub(crate) type Version = Arc<dyn Fn(&Key) -> String + Send + Sync>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// A queue of keys. A key that is added while it is being processed is processed once more afterwards.
#[derive(Clone, Default)]
pub struct Queue {
    shared: Arc<Shared>,
    on_panic: Option<PanicObserver>,
    version: Option<Version>,
}

/// Back-off of a key.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(10), Duration::from_secs(60));
/// Limit of delays: a key is added after this time at the latest, and is found not to be due. So no time in an object becomes an unbounded
/// timer.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

static PANICS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let options =
        Opts::new("timonel_reconcile_panics_total", "Reconciliations of an object that panicked, by controller");
    let counter = IntCounterVec::new(options, &["controller"])
        .unwrap_or_else(|error| unreachable!("the name is well-formed: {error}"));
    let _ = prometheus::register(Box::new(counter.clone()));
    counter
});

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown reason")
}

impl Queue {
    /// A queue that calls `on_panic` for objects whose reconciliation panicked, and `version` for the version of an object.
    pub(crate) fn with_observer(on_panic: PanicObserver, version: Version) -> Self {
        Queue { on_panic: Some(on_panic), version: Some(version), ..Queue::default() }
    }

    /// Adds `key`, unless it is queued already.
    pub fn add(&self, key: Key) {
        self.add_with_priority(key, 0);
    }

    /// Adds `key` with a priority: lower ones are processed first. It keeps the priority when it is requeued.
    pub fn add_with_priority(&self, key: Key, priority: i32) {
        let mut state = self.shared.state.lock();
        if priority != 0 {
            state.priorities.insert(key.clone(), priority);
        }
        if !state.dirty.insert(key.clone()) {
            return;
        }
        if !state.processing.contains(&key) {
            state.push(key);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Adds `key` after `wait`, or earlier if it is delayed for less already.
    pub fn add_after(&self, key: Key, wait: Duration) {
        self.add_at(key, apimachinery::clock::deadline(Instant::now(), wait.min(MAX_DELAY)));
    }

    fn add_at(&self, key: Key, at: Instant) {
        {
            let mut state = self.shared.state.lock();
            if state.delayed.get(&key).is_some_and(|present| *present <= at) {
                return;
            }
            state.delayed.insert(key.clone(), at);
        }
        let queue = self.clone();
        tasks::spawn("queue-timer", async move {
            tokio::time::sleep_until(at).await;
            let due = {
                let mut state = queue.shared.state.lock();
                let due = state.delayed.get(&key) == Some(&at);
                if due {
                    state.delayed.remove(&key);
                }
                due
            };
            if due {
                queue.add(key);
            }
        });
    }

    async fn next(&self) -> Key {
        loop {
            let changed = self.shared.changed.notified();
            {
                let mut state = self.shared.state.lock();
                if let Some((_, key)) = state.ready.pop_first() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.shared.changed.notify_one();
                    }
                    return key;
                }
            }
            changed.await;
        }
    }

    fn done(&self, key: &Key) {
        let mut state = self.shared.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.push(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    fn failed(&self, key: &Key) -> Duration {
        let mut state = self.shared.state.lock();
        let count = state.failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        BACKOFF.after(*count)
    }

    /// Resets the key's back-off; `forget` removes its priority, too, as it isn't requeued.
    fn succeeded(&self, key: &Key, forget: bool) {
        let mut state = self.shared.state.lock();
        state.failures.remove(key);
        if forget && !state.dirty.contains(key) {
            state.priorities.remove(key);
        }
    }

    /// Starts `workers` tasks that call `reconcile` for every key. `reconcile` returns the time after which the key is requeued, if it is;
    /// after an error the key is requeued with back-off. A panic concerns its key alone: it is counted, an event is recorded, and the key
    /// is retried once; then it is quarantined until its object (or what its controller watches) changes.
    pub fn work<F, E>(&self, name: &'static str, workers: usize, reconcile: impl Fn(Key) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        let (reconcile, quarantine) = (Arc::new(reconcile), quarantine::process_quarantine());
        for _ in 0..workers {
            let (queue, reconcile, quarantine) = (self.clone(), reconcile.clone(), quarantine.clone());
            tasks::supervise(name, move || {
                let (queue, reconcile, quarantine) = (queue.clone(), reconcile.clone(), quarantine.clone());
                async move {
                    loop {
                        let key = queue.next().await;
                        queue.handle(name, key, &quarantine, &*reconcile).await;
                    }
                }
            });
        }
    }

    async fn handle<F, E>(&self, name: &'static str, key: Key, quarantine: &Quarantine, reconcile: &impl Fn(Key) -> F)
    where
        F: Future<Output = Result<Option<Duration>, E>>,
        E: fmt::Display,
    {
        let known_as = format!("{name} {key}");
        let version = || self.version.as_ref().map_or_else(String::new, |version| version(&key));
        let handling = match quarantine.enter(&known_as, version).await {
            Ok(handling) => handling,
            Err(why) => return self.skip_quarantined(name, key, &why),
        };
        let once = async {
            // Dropping the guard during a panic doesn't count as a success.
            let _handling = handling;
            reconcile(key.clone()).await
        };
        match AssertUnwindSafe(once).catch_unwind().await {
            Ok(outcome) => self.finish(name, key, outcome),
            Err(panic) => {
                let is_quarantined = quarantine.panicked(&known_as, "");
                self.survive(name, key, panic_message(&*panic), is_quarantined);
            }
        }
    }

    /// Skips a quarantined object.
    fn skip_quarantined(&self, name: &str, key: Key, why: &Quarantined) {
        self.done(&key);
        if !why.caught {
            tracing::error!(controller = name, %key, crashes = why.crashes, "the object is quarantined");
            if let Some(on_panic) = &self.on_panic {
                let text = format!(
                    "{name} leaves the object alone until it changes: reconciling it ended the process again and again"
                );
                on_panic(&key, "Quarantined", &text);
            }
        }
        if let Some(wait) = why.retry_after {
            self.add_after(key, wait);
        }
    }

    fn finish<E: fmt::Display>(&self, name: &str, key: Key, outcome: Result<Option<Duration>, E>) {
        self.done(&key);
        match outcome {
            Ok(again) => {
                self.succeeded(&key, again.is_none());
                if let Some(wait) = again {
                    self.add_after(key, wait);
                }
            }
            Err(error) => {
                let wait = self.failed(&key);
                // Conflicts are everyday business; what goes on failing deserves a look.
                if wait > Duration::from_secs(2) {
                    tracing::warn!(controller = name, %key, %error, "reconcile failed; retrying");
                } else {
                    tracing::debug!(controller = name, %key, %error, "reconcile failed; retrying");
                }
                self.add_after(key, wait);
            }
        }
    }

    fn survive(&self, name: &str, key: Key, why: &str, is_quarantined: bool) {
        PANICS.with_label_values(&[name]).inc();
        let wait = self.failed(&key);
        tracing::error!(controller = name, %key, %why, is_quarantined, "reconcile panicked");
        self.done(&key);
        if !is_quarantined {
            self.add_after(key, wait);
            return;
        }
        self.shared.state.lock().delayed.remove(&key);
        if let Some(on_panic) = &self.on_panic {
            let text = format!("{name} panicked and leaves the object alone until it changes: {why}");
            on_panic(&key, "ReconcilePanicked", &text);
        }
    }
}

#[cfg(test)]
mod tests;
