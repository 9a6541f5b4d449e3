//! Exponential back-off: how long to wait before the next try of what has failed (client-go's `wait.Backoff`).

use std::time::Duration;

/// How the wait grows from one failure to the next: it doubles, from `initial` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExponentialBackoff {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl ExponentialBackoff {
    /// A back-off from `initial` to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        ExponentialBackoff { initial, max }
    }

    /// The wait after this many failures in a row: none after no failure, then `initial`, doubled by each further one up to `max`.
    pub fn after(self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            _ => self.initial.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(self.max),
        }
    }
}

/// The failures in a row of one thing that is tried again and again.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    growth: ExponentialBackoff,
    failures: u32,
}

impl Backoff {
    /// Without a failure so far.
    pub const fn new(growth: ExponentialBackoff) -> Self {
        Backoff { growth, failures: 0 }
    }

    /// Counts a failure; returns how long to wait after it.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.growth.after(self.failures)
    }

    /// Ends the row of failures: the next one is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROWTH: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(5));

    #[test]
    fn the_wait_doubles_up_to_its_maximum() {
        let seconds = [0, 1, 2, 3, 4, 40, u32::MAX].map(|failures| GROWTH.after(failures).as_secs());
        assert_eq!(seconds, [0, 1, 2, 4, 5, 5, 5]);
        let endless = ExponentialBackoff::new(Duration::from_secs(u64::MAX), Duration::MAX);
        assert_eq!(endless.after(u32::MAX), Duration::MAX);
    }

    #[test]
    fn a_success_ends_the_row_of_failures() {
        let mut backoff = Backoff::new(GROWTH);
        assert_eq!([(); 4].map(|()| backoff.failed().as_secs()), [1, 2, 4, 5]);
        backoff.reset();
        assert_eq!(backoff.failed(), GROWTH.initial);
    }
}
