//! Loops that read whole caches and write one thing, as a table of rules or a zone of names: when they run (kube-proxy's `BoundedFrequencyRunner`).

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Backoff, ExponentialBackoff};
use tokio::sync::Notify;

use crate::cache::{Change, Informer, Keyed, Synced};

/// First back-off after a failure; it doubles with each further one up to the resync period.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off of a loop without a resync period.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Makes a loop run. Clones make the same loop run.
#[derive(Debug, Clone, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// The loop runs once more, however often this is called meanwhile.
    pub fn fire(&self) {
        self.0.notify_one();
    }

    /// Fires at every change of a cache.
    pub fn on<K: Keyed>(&self, informer: &Informer<K>) {
        self.on_if(informer, |_| true);
    }

    /// Fires at the changes of a cache that matter.
    pub fn on_if<K: Keyed>(
        &self,
        informer: &Informer<K>,
        matters: impl Fn(&Change<K>) -> bool + Send + Sync + 'static,
    ) {
        let trigger = self.clone();
        informer.on_change(move |change| {
            if matters(change) {
                trigger.fire();
            }
        });
    }
}

/// Why a loop runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Something changed.
    Change,
    /// Nothing changed for the resync period: what others did meanwhile to what the loop wrote is repaired.
    Resync,
}

/// When a loop runs: at changes, of which those that come close together count as one; after a failure with back-off; and at each resync.
pub struct SyncLoop {
    trigger: Trigger,
    batch_period: Duration,
    resync_period: Option<Duration>,
    backoff: Backoff,
    caches: Vec<Synced>,
}

impl SyncLoop {
    /// Changes within `batch_period` cause one run; there is one after `resync_period` without changes, if that is given.
    pub fn new(batch_period: Duration, resync_period: Option<Duration>) -> Self {
        let (trigger, caches) = (Trigger::default(), Vec::new());
        let max = resync_period.unwrap_or(MAX_BACKOFF);
        let backoff = Backoff::new(ExponentialBackoff::new(INITIAL_BACKOFF, max));
        SyncLoop { trigger, batch_period, resync_period, backoff, caches }
    }

    /// What makes the loop run.
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Runs at every change of a cache, which [`SyncLoop::synced`] waits for.
    pub fn follow<K: Keyed>(&mut self, informer: &Informer<K>) {
        self.follow_if(informer, |_| true);
    }

    /// Runs at the changes of a cache that matter.
    pub fn follow_if<K: Keyed>(
        &mut self,
        informer: &Informer<K>,
        matters: impl Fn(&Change<K>) -> bool + Send + Sync + 'static,
    ) {
        self.trigger.on_if(informer, matters);
        self.caches.push(informer.sync_state());
    }

    /// Waits until all followed caches have been filled.
    pub async fn synced(&mut self) {
        for cache in &mut self.caches {
            cache.wait().await;
        }
    }

    /// After a success: waits until the loop is to run again. It may be dropped before; then the caller runs the loop for a reason of its own.
    pub async fn next(&mut self) -> Cause {
        self.backoff.reset();
        let resync = async {
            match self.resync_period {
                Some(period) => tokio::time::sleep(period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.trigger.0.notified() => {
                tokio::time::sleep(self.batch_period).await;
                Cause::Change
            }
            () = resync => Cause::Resync,
        }
    }

    /// After a failure: waits before the next attempt.
    pub async fn back_off(&mut self) {
        tokio::time::sleep(self.backoff.failed()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_run_it_once_failures_with_back_off_and_silence_at_the_resync() {
        let mut runs = SyncLoop::new(Duration::from_millis(5), Some(Duration::from_secs(3)));
        let trigger = runs.trigger();
        let start = Instant::now();
        (0..3).for_each(|_| trigger.fire());
        assert_eq!((runs.next().await, start.elapsed()), (Cause::Change, Duration::from_millis(5)));
        let start = Instant::now();
        assert_eq!((runs.next().await, start.elapsed()), (Cause::Resync, Duration::from_secs(3)));
        for seconds in [1, 2, 3, 3] {
            let start = Instant::now();
            runs.back_off().await;
            assert_eq!(start.elapsed(), Duration::from_secs(seconds));
        }
        // A success begins the back-off anew.
        trigger.fire();
        assert_eq!(runs.next().await, Cause::Change);
        let start = Instant::now();
        runs.back_off().await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
