//! Tasks that run for ever, whatever happens inside of them.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The wait before a task is started again, and the longest one, which it grows to while the task goes on ending.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A task that ran longer than this begins with the first wait again.
const LONG_RUN: Duration = Duration::from_secs(60);

/// `timonel_task_restarts_total{task,reason}`: tasks that panicked or ended and were started again.
pub static RESTARTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("timonel_task_restarts_total", "Tasks that panicked or ended and were started again");
    let counter = IntCounterVec::new(opts, &["task", "reason"]).unwrap_or_else(|error| unreachable!("{error}"));
    // A second registration can only be that of the same counter.
    let _ = prometheus::default_registry().register(Box::new(counter.clone()));
    counter
});

/// Runs what `start` makes, in a task of its own, until the handle aborts it or the process ends: a task that panics or returns
/// is started again with back-off, logged and counted. `name` is the task's label in metrics and logs.
pub fn supervise<F>(name: &'static str, start: impl Fn() -> F + Send + 'static) -> AbortHandle
where
    F: Future<Output = ()> + Send + 'static,
{
    let supervisor = async move {
        let mut wait = BACKOFF.0;
        loop {
            let started = Instant::now();
            let mut task = AbortOnDrop(tokio::spawn(start()));
            let reason = match (&mut task.0).await {
                Err(error) if error.is_panic() => "panic",
                Err(_) => return,
                Ok(()) => "ended",
            };
            RESTARTS.with_label_values(&[name, reason]).inc();
            if started.elapsed() > LONG_RUN {
                wait = BACKOFF.0;
            }
            tracing::error!(task = name, reason, ?wait, "a background task ended; restarting it");
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(BACKOFF.1);
        }
    };
    tokio::spawn(supervisor).abort_handle()
}

/// Ends the task with its supervisor.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn task_that_panics_or_ends_is_started_again_with_growing_waits() {
        let (sender, mut starts) = mpsc::unbounded_channel();
        let runs = Arc::new(AtomicU32::new(0));
        let handle = supervise("supervise-test", move || {
            let (sender, runs) = (sender.clone(), runs.clone());
            async move {
                let _ = sender.send(Instant::now());
                assert!(runs.fetch_add(1, Ordering::Relaxed) % 2 == 1, "every other run panics");
            }
        });
        let mut at = Vec::new();
        for _ in 0..5 {
            at.push(starts.recv().await.unwrap());
        }
        let waits: Vec<Duration> = at.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(waits.windows(2).all(|w| w[0] < w[1]), "{waits:?}");
        assert!(RESTARTS.with_label_values(&["supervise-test", "panic"]).get() >= 2);
        assert!(RESTARTS.with_label_values(&["supervise-test", "ended"]).get() >= 2);
        handle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn aborted_task_ends_for_good() {
        let (sender, mut ended) = mpsc::channel::<()>(1);
        let handle = supervise("abort-test", move || {
            let sender = sender.clone();
            async move {
                let _held = sender;
                std::future::pending().await
            }
        });
        tokio::task::yield_now().await;
        handle.abort();
        assert!(ended.recv().await.is_none());
    }
}
