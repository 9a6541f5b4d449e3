//! Pods that fail again and again are made anew ever more seldom: a kubelet that refuses one will refuse the next, too (upstream's back-off
//! of failed daemon pods).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::ExponentialBackoff;
use informer::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(15 * 60));

/// Failures by the pods' owner and their place in it: a node's name, or their own.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<HashMap<(Key, String), Failure>>>);

struct Failure {
    /// In a row.
    count: u32,
    until: Instant,
}

impl Failures {
    /// How long a failed pod stays before another takes its place. `None`: it may go now, and the next one that fails waits longer.
    pub fn wait(&self, owner: &Key, place: &str) -> Option<Duration> {
        let now = Instant::now();
        let mut failures = self.0.lock();
        // What went well for so long begins anew.
        failures.retain(|_, failure| now.saturating_duration_since(failure.until) < BACKOFF.max * 2);
        let key = (owner.clone(), place.to_string());
        let count = match failures.get(&key) {
            Some(failure) if failure.until > now => return Some(failure.until - now),
            Some(failure) => failure.count.saturating_add(1),
            None => 1,
        };
        failures.insert(key, Failure { count, until: now + BACKOFF.after(count) });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fails_again_waits_longer_and_who_does_well_begins_anew() {
        let (failures, owner) = (Failures::default(), Key::new("n", "set"));
        let wait = |place: &str| failures.wait(&owner, place).map(|wait| wait.as_secs());
        assert_eq!((wait("a"), wait("a"), wait("b")), (None, Some(1), None));
        for seconds in [2, 4, 8] {
            tokio::time::advance(wait("a").map(Duration::from_secs).unwrap()).await;
            assert_eq!((wait("a"), wait("a")), (None, Some(seconds)));
        }
        for _ in 0..10 {
            tokio::time::advance(wait("a").map(Duration::from_secs).unwrap()).await;
            assert_eq!(wait("a"), None);
        }
        assert_eq!(wait("a"), Some(900));
        tokio::time::advance(BACKOFF.max * 3).await;
        assert_eq!((wait("a"), wait("a")), (None, Some(1)));
        assert_eq!(failures.0.lock().len(), 1);
    }
}
