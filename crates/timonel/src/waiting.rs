//! Trying again until it works: with longer and longer waits, and without filling the log.

use std::time::Duration;

use apimachinery::{Backoff, ExponentialBackoff};
use rand::RngExt as _;
use tokio::time::Instant;

const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(500), Duration::from_secs(15));
/// How often what goes on is said again.
const LOG_PERIOD: Duration = Duration::from_secs(600);

/// One thing that is tried again.
#[derive(Debug)]
pub struct Waiting {
    backoff: Backoff,
    told: Option<(String, Instant)>,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { backoff: Backoff::new(BACKOFF), told: None }
    }
}

impl Waiting {
    /// Whether a failure is to be told: when it is the first, another than before, or the last word is long ago.
    pub fn is_news(&mut self, why: &str) -> bool {
        let now = Instant::now();
        if self.told.as_ref().is_some_and(|(text, at)| text == why && now.duration_since(*at) < LOG_PERIOD) {
            return false;
        }
        self.told = Some((why.to_string(), now));
        true
    }

    /// Until the next try: doubling, and not at the same moment for all machines that wait for one server.
    pub fn next(&mut self) -> Duration {
        self.backoff.failed().mul_f64(rand::rng().random_range(0.75..1.25))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_and_then_seldom() {
        let mut waiting = Waiting::default();
        let mut told = 0;
        let start = Instant::now();
        let mut tries = 0;
        while start.elapsed() < Duration::from_secs(3600) {
            told += u32::from(waiting.is_news("the server can't be reached"));
            tries += 1;
            let wait = waiting.next();
            assert!(wait <= BACKOFF.max.mul_f64(1.25));
            tokio::time::sleep(wait).await;
        }
        assert!((6..=7).contains(&told) && tries > 180, "told {told} times in {tries} tries");
        assert!(waiting.is_news("its certificate has expired"), "something else");
        assert!(Waiting::default().next() < Duration::from_secs(1));
    }
}
