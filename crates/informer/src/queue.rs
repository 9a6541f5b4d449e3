//! Work queues: which objects need a look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

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

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// A queue of keys. A key that is added while it is worked on is worked on once more afterwards.
#[derive(Clone, Default)]
pub struct Queue {
    shared: Arc<Shared>,
}

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

impl Queue {
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
        let at = Instant::now() + wait;
        {
            let mut state = self.shared.state.lock();
            if state.later.get(&key).is_some_and(|present| *present <= at) {
                return;
            }
            state.later.insert(key.clone(), at);
        }
        let queue = self.clone();
        tokio::spawn(async move {
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
    /// by itself; after an error the key comes back with growing waits.
    pub fn work<F, E>(&self, name: &'static str, workers: usize, reconcile: impl Fn(Key) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
        E: fmt::Display + Send,
    {
        let reconcile = Arc::new(reconcile);
        for _ in 0..workers {
            let (queue, reconcile) = (self.clone(), reconcile.clone());
            tokio::spawn(async move {
                loop {
                    let key = queue.next().await;
                    let outcome = reconcile(key.clone()).await;
                    queue.done(&key);
                    match outcome {
                        Ok(again) => {
                            queue.succeeded(&key, again.is_none());
                            if let Some(wait) = again {
                                queue.add_after(key, wait);
                            }
                        }
                        Err(error) => {
                            let wait = queue.failed(&key);
                            // Conflicts are everyday business; what goes on failing deserves a look.
                            if wait > Duration::from_secs(2) {
                                tracing::warn!(controller = name, %key, %error, "an object can't be brought to its desired state; trying again");
                            } else {
                                tracing::debug!(controller = name, %key, %error, "trying again");
                            }
                            queue.add_after(key, wait);
                        }
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::sync::mpsc;

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
}
