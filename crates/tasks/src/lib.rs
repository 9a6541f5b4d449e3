//! Starts tasks and threads so that a panic of any of them is logged, counted, and for loops followed by a restart.
//!
//! - [`supervise`] is for loops that run as long as the process: a loop that panics or returns is restarted with back-off.
//! - [`until_done`] is for loops that return when they have no work any more: a panic restarts one, a return ends it.
//! - [`spawn`] and [`thread`] are for work that ends by itself, like one request or one connection: a panic ends it, and is logged and counted.
//!
//! Tasks unwind, so a panic in a task whose handle is dropped would go unnoticed; `clippy.toml` therefore forbids `tokio::spawn` and
//! `std::thread::spawn` elsewhere. Invariant: the futures of [`supervise`] and [`until_done`] hold no state that must survive a restart;
//! each run begins with what `start` gives it.

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests see a panic by themselves"))]

mod report;

use std::sync::LazyLock;
use std::time::Duration;

use apimachinery::{Backoff, ExponentialBackoff};
use prometheus::{IntCounterVec, Opts};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use report::{Restarted, read_report, set_report_file};

/// Back-off of restarts.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// A task that ran for longer than this is restarted after the initial back-off again.
const BACKOFF_RESET_PERIOD: Duration = Duration::from_secs(60);

/// `timonel_task_restarts_total{task,reason}`: restarts of tasks that panicked (`panic`) or returned (`ended`).
pub static RESTARTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counter("timonel_task_restarts_total", "Restarts of tasks that panicked or ended", &["task", "reason"])
});

/// `timonel_task_panics_total{task}`: tasks and threads that a panic ended.
pub static PANICS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counter("timonel_task_panics_total", "Tasks and threads that a panic ended", &["task"]));

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counter = IntCounterVec::new(Opts::new(name, help), labels).unwrap_or_else(|error| unreachable!("{error}"));
    // A second registration can only be that of the same counter.
    let _ = prometheus::default_registry().register(Box::new(counter.clone()));
    counter
}

/// Runs the future that `start` makes as a task, until the handle is aborted or the process ends. Whenever the future panics or returns, the
/// restart is logged and counted, and `start` is called again after a back-off. `name` is the task's label in metrics and logs.
pub fn supervise<F>(name: &'static str, start: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    restart_loop(name, start, false)
}

/// Like [`supervise`], for a task that returns when it has no work any more, as when a channel is closed: only a panic restarts it. The handle
/// is ready once the future has returned.
pub fn until_done<F>(name: &'static str, start: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    restart_loop(name, start, true)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the wrapper that the ban points to: it waits for the task and sees its panic"
)]
fn restart_loop<F>(name: &'static str, start: impl Fn() -> F + Send + 'static, may_end: bool) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            let started = Instant::now();
            let mut task = AbortOnDrop(tokio::spawn(start()));
            let reason = match (&mut task.0).await {
                Err(error) if error.is_panic() => "panic",
                // The runtime is shut down.
                Err(_) => return,
                Ok(()) if may_end => return,
                Ok(()) => "ended",
            };
            RESTARTS.with_label_values(&[name, reason]).inc();
            report::restarted(name, reason);
            if started.elapsed() > BACKOFF_RESET_PERIOD {
                backoff.reset();
            }
            let wait = backoff.failed();
            tracing::error!(task = name, reason, ?wait, "a task ended; restarting it");
            tokio::time::sleep(wait).await;
        }
    })
}

/// Aborts the task when it is dropped.
pub struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts work that ends by itself. A panic ends it, and is logged and counted under `name`, whether or not the handle is awaited.
#[expect(clippy::disallowed_methods, reason = "the wrapper that the ban points to: it logs and counts panics")]
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(async move {
        let _guard = PanicGuard(name);
        work.await
    })
}

/// Like [`spawn`], on another Tokio runtime than the current one.
#[expect(clippy::disallowed_methods, reason = "the wrapper that the ban points to: it logs and counts panics")]
pub fn spawn_on<F>(runtime: &Handle, name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    runtime.spawn(async move {
        let _guard = PanicGuard(name);
        work.await
    })
}

/// Like [`spawn`], on an operating-system thread with this name.
///
/// # Errors
/// When the system refuses a new thread (pthread_create(3), `EAGAIN`).
#[expect(clippy::disallowed_methods, reason = "the wrapper that the ban points to: it logs and counts panics")]
pub fn thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let _guard = PanicGuard(name);
        work()
    })
}

/// Logs and counts a panic when it is dropped by unwinding.
struct PanicGuard(&'static str);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            PANICS.with_label_values(&[self.0]).inc();
            tracing::error!(task = self.0, "a task panicked");
        }
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

    #[tokio::test(start_paused = true)]
    async fn task_that_may_end_is_started_again_after_a_panic_alone() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let handle = until_done("until-done-test", move || {
            let runs = counted.clone();
            async move { assert!(runs.fetch_add(1, Ordering::Relaxed) == 2, "the third run returns") }
        });
        handle.await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        assert_eq!(RESTARTS.with_label_values(&["until-done-test", "panic"]).get(), 2);
    }

    #[tokio::test]
    async fn panics_of_tasks_and_threads_are_counted() {
        assert_eq!(spawn("spawn-test", async { 7 }).await.unwrap(), 7);
        assert!(spawn("spawn-test", async { panic!("on purpose") }).await.unwrap_err().is_panic());
        assert_eq!(PANICS.with_label_values(&["spawn-test"]).get(), 1);
        assert!(thread("thread-test", || panic!("on purpose")).unwrap().join().is_err());
        assert_eq!(PANICS.with_label_values(&["thread-test"]).get(), 1);
        // One that is broken off hasn't panicked.
        let endless = spawn("aborted-test", std::future::pending::<()>());
        endless.abort();
        assert!(endless.await.unwrap_err().is_cancelled());
        assert_eq!(PANICS.with_label_values(&["aborted-test"]).get(), 0);
    }
}
