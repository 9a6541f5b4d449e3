//! Work queues: which objects need a look.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::quarantine::{self, LeftAlone, Quarantine};

/// Namespace and name of an object; the namespace is empty for kinds without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
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
    /// By rank, then in the order of arrival.
    ready: BTreeMap<(i32, u64), Key>,
    arrivals: u64,
    ranks: HashMap<Key, i32>,
    /// In `ready`, or to be put there when the present worker is done.
    wanted: HashSet<Key>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
    /// When a key comes up by itself.
    later: HashMap<Key, Instant>,
}

impl State {
    fn push(&mut self, key: Key) {
        self.arrivals += 1;
        let rank = self.ranks.get(&key).copied().unwrap_or(0);
        self.ready.insert((rank, self.arrivals), key);
    }
}

/// Tells the users of an object that its reconciliation panicked.
pub(crate) type Told = Arc<dyn Fn(&Key, &'static str, &str) + Send + Sync>;
/// The version of an object as the quarantine counts versions.
pub(crate) type Version = Arc<dyn Fn(&Key) -> String + Send + Sync>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// A queue of keys. A key that is added while it is worked on is worked on once more afterwards.
#[derive(Clone, Default)]
pub struct Queue {
    shared: Arc<Shared>,
    told: Option<Told>,
    version: Option<Version>,
}

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// A key comes up after such a time at the latest, and is found not to be due: so no time that an object names is a wait of a clock.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

static PANICS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let told = Opts::new("timonel_reconcile_panics_total", "Reconciliations of an object that panicked, by controller");
    let counter = IntCounterVec::new(told, &["controller"])
        .unwrap_or_else(|error| unreachable!("the name is well-formed: {error}"));
    let _ = prometheus::register(Box::new(counter.clone()));
    counter
});

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown reason")
}

impl Queue {
    /// A queue whose objects are told of by `told`, and have the versions that `version` says.
    pub(crate) fn told(told: Told, version: Version) -> Self {
        Queue { told: Some(told), version: Some(version), ..Queue::default() }
    }

    pub fn add(&self, key: Key) {
        self.add_ranked(key, 0);
    }

    /// Adds `key` with a rank: the lower, the sooner it has its turn. It keeps its rank when it comes back by itself.
    pub fn add_ranked(&self, key: Key, rank: i32) {
        let mut state = self.shared.state.lock();
        if rank != 0 {
            state.ranks.insert(key.clone(), rank);
        }
        if !state.wanted.insert(key.clone()) {
            return;
        }
        if !state.running.contains(&key) {
            state.push(key);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Adds `key` after `wait`, or earlier if it was to come earlier.
    pub fn add_after(&self, key: Key, wait: Duration) {
        self.add_at(key, apimachinery::clock::deadline(Instant::now(), wait.min(MAX_DELAY)));
    }

    fn add_at(&self, key: Key, at: Instant) {
        {
            let mut state = self.shared.state.lock();
            if state.later.get(&key).is_some_and(|present| *present <= at) {
                return;
            }
            state.later.insert(key.clone(), at);
        }
        let queue = self.clone();
        tasks::spawn("queue-timer", async move {
            tokio::time::sleep_until(at).await;
            let due = {
                let mut state = queue.shared.state.lock();
                let due = state.later.get(&key) == Some(&at);
                if due {
                    state.later.remove(&key);
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
                    state.wanted.remove(&key);
                    state.running.insert(key.clone());
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
        state.running.remove(key);
        if state.wanted.contains(key) {
            state.push(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    fn failed(&self, key: &Key) -> Duration {
        let mut state = self.shared.state.lock();
        let count = state.failures.entry(key.clone()).or_default();
        *count += 1;
        (BACKOFF.0 * 2u32.saturating_pow((*count - 1).min(20))).min(BACKOFF.1)
    }

    /// `settled` if it doesn't come back by itself.
    fn succeeded(&self, key: &Key, settled: bool) {
        let mut state = self.shared.state.lock();
        state.failures.remove(key);
        if settled && !state.wanted.contains(key) {
            state.ranks.remove(key);
        }
    }

    /// Starts `workers` tasks that call `reconcile` for every key. It returns when the key should come up again, if
    /// by itself; after an error the key comes back with growing waits. A panic is one key's matter: it is counted, told of and tried
    /// once more; then the key is left alone until its object (or what its controller follows) changes.
    pub fn work<F, E>(&self, name: &'static str, workers: usize, reconcile: impl Fn(Key) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        let (reconcile, quarantine) = (Arc::new(reconcile), quarantine::of_process());
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
            Err(why) => return self.leave_alone(name, key, &why),
        };
        let once = async {
            // Dropped with a panic it isn't taken for a success.
            let _handling = handling;
            reconcile(key.clone()).await
        };
        match AssertUnwindSafe(once).catch_unwind().await {
            Ok(outcome) => self.settle(name, key, outcome),
            Err(panic) => {
                let is_quarantined = quarantine.panicked(&known_as, "");
                self.survive(name, key, text_of(&*panic), is_quarantined);
            }
        }
    }

    /// Lets a quarantined object be.
    fn leave_alone(&self, name: &str, key: Key, why: &LeftAlone) {
        self.done(&key);
        if !why.caught {
            tracing::error!(controller = name, %key, crashes = why.crashes, "the object is quarantined");
            if let Some(told) = &self.told {
                let text = format!(
                    "{name} leaves the object alone until it changes: reconciling it ended the process again and again"
                );
                told(&key, "Quarantined", &text);
            }
        }
        if let Some(wait) = why.again {
            self.add_after(key, wait);
        }
    }

    fn settle<E: fmt::Display>(&self, name: &str, key: Key, outcome: Result<Option<Duration>, E>) {
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
        self.shared.state.lock().later.remove(&key);
        if let Some(told) = &self.told {
            let text = format!("{name} panicked and leaves the object alone until it changes: {why}");
            told(&key, "ReconcilePanicked", &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::sync::mpsc;

    /// The least time for which a key is left alone.
    const QUARANTINE: Duration = Duration::from_secs(60);

    /// The time of a test whose clock is paused.
    fn time() -> jiff::Timestamp {
        thread_local! {
            static START: Instant = Instant::now();
        }
        let passed = START.with(Instant::elapsed);
        jiff::Timestamp::from_second(1_800_000_000).unwrap() + passed
    }

    #[tokio::test(start_paused = true)]
    async fn key_added_while_worked_on_is_worked_on_once_more() {
        let queue = Queue::default();
        let (sender, mut seen) = mpsc::unbounded_channel();
        queue.add(Key::new("", "a"));
        queue.add(Key::new("", "a"));
        queue.work("test", 4, move |key| {
            let _ = sender.send(key);
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, Infallible>(None)
            }
        });
        assert_eq!(seen.recv().await, Some(Key::new("", "a")));
        queue.add(Key::new("", "a"));
        queue.add(Key::new("", "a"));
        assert_eq!(seen.recv().await, Some(Key::new("", "a")));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_key_comes_back_with_growing_waits() {
        let queue = Queue::default();
        let (sender, mut seen) = mpsc::unbounded_channel();
        queue.add(Key::new("", "a"));
        queue.work("test", 1, move |_| {
            let _ = sender.send(Instant::now());
            async { Err::<Option<Duration>, _>("no") }
        });
        let mut waits = Vec::new();
        let mut last = seen.recv().await.unwrap();
        for _ in 0..4 {
            let next = seen.recv().await.unwrap();
            waits.push((next - last).as_millis() / 10);
            last = next;
        }
        assert!(waits.windows(2).all(|w| w[0] < w[1]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_too_long_for_the_clock() {
        let queue = Queue::default();
        let (sender, mut seen) = mpsc::unbounded_channel();
        queue.add(Key::new("", "a"));
        queue.work("test", 1, move |key| {
            let _ = sender.send(key);
            async { Ok::<_, Infallible>(Some(Duration::MAX)) }
        });
        // It comes up again, finds that it isn't due, and so on.
        for _ in 0..3 {
            assert_eq!(seen.recv().await, Some(Key::new("", "a")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_whose_reconciliation_panics_stops_no_other_and_waits_for_a_change() {
        apimachinery::clock::set_source(time);
        let queue = Queue::default();
        let (sender, mut seen) = mpsc::unbounded_channel();
        let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let heals = healed.clone();
        queue.work("panicking", 1, move |key: Key| {
            let _ = sender.send(key.name.clone());
            let bad = key.name == "bad" && !heals.load(std::sync::atomic::Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                assert!(!bad, "the object is impossible");
                Ok::<_, Infallible>(None)
            }
        });
        queue.add(Key::new("", "bad"));
        queue.add(Key::new("", "good"));
        let mut first: Vec<String> = Vec::new();
        for _ in 0..3 {
            first.push(seen.recv().await.unwrap());
        }
        first.sort();
        assert_eq!(first, ["bad", "bad", "good"]);
        // It isn't tried a third time by itself.
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert!(seen.try_recv().is_err());
        assert_eq!(PANICS.with_label_values(&["panicking"]).get(), 2);
        // A change brings it back; changes that come one after another don't make it panic all the time.
        queue.add(Key::new("", "bad"));
        assert_eq!(seen.recv().await.as_deref(), Some("bad"));
        for _ in 0..5 {
            queue.add(Key::new("", "bad"));
        }
        tokio::time::sleep(QUARANTINE / 2).await;
        assert!(seen.try_recv().is_err());
        healed.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(QUARANTINE).await;
        assert_eq!(seen.recv().await.as_deref(), Some("bad"));
        // Now that it is well, it has its turn at once again.
        queue.add(Key::new("", "bad"));
        assert_eq!(seen.recv().await.as_deref(), Some("bad"));
        assert!(seen.try_recv().is_err());
    }
}
