//! Times as the API writes them, and ages as tables print them.

use std::cell::Cell;
use std::ops::Add;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

thread_local! {
    static SOURCE: Cell<fn() -> Timestamp> = const { Cell::new(Timestamp::now) };
}

/// Now. Everything that the API and the control loops do with times asks here.
pub fn now() -> Timestamp {
    SOURCE.get()()
}

/// Lets this thread's time come from `source`: for tests whose time goes faster than the wall's.
pub fn set_source(source: fn() -> Timestamp) {
    SOURCE.set(source);
}

/// Now, as `metav1.Time` is written: RFC 3339, UTC, whole seconds.
pub fn now_rfc3339() -> String {
    format_rfc3339(now())
}

/// `time` as RFC 3339 in UTC with whole seconds.
pub fn format_rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, as `metav1.MicroTime` is written (leases, events).
pub fn now_micro() -> String {
    format_micro(now())
}

/// `time` as RFC 3339 in UTC with millionths of the second.
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The longest wait that is computed with: no clock of a process overflows when it is added, and nobody sees its end.
pub const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A number of seconds that an object or a request gave: negative is none at all, and more than [`LONGEST`] is that.
pub const fn seconds(given: i64) -> Duration {
    if given <= 0 {
        return Duration::ZERO;
    }
    let given = given.unsigned_abs();
    if given > LONGEST.as_secs() { LONGEST } else { Duration::from_secs(given) }
}

/// The instant (of the standard library or of tokio) that comes `wait` after `now`. Every wait that may stem from an object, a
/// request or a file goes through here: a plain `now + wait` ends the process when it overflows.
pub fn deadline<I: Add<Duration, Output = I>>(now: I, wait: Duration) -> I {
    now + wait.min(LONGEST)
}

/// `time` moved by `by`, or the first or last moment that there is where that isn't one.
pub fn moved(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

/// The age of `since` at `now` in the short form of upstream's tables (`5m30s`, `3h`, `2d4h`), or `<unknown>` when
/// `since` is no RFC 3339 time.
pub fn age(since: &str, now: Timestamp) -> String {
    match since.parse::<Timestamp>() {
        Ok(t) => human_duration(now.duration_since(t)),
        Err(_) => "<unknown>".into(),
    }
}

/// A duration in at most two units, with upstream's thresholds (`k8s.io/apimachinery/pkg/util/duration`).
pub fn human_duration(d: SignedDuration) -> String {
    let secs = d.as_secs();
    if secs < -1 {
        return "<invalid>".into();
    }
    let secs = secs.max(0);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86400);
    match secs {
        s if s < 120 => format!("{s}s"),
        s if minutes < 10 => two(minutes, "m", s % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_overflows_a_clock() {
        let (std, wall) = (std::time::Instant::now(), Timestamp::now());
        for given in [i64::MIN, -1, 0, 1, 86_400, i64::from(i32::MAX), 1 << 40, i64::MAX] {
            let wait = seconds(given);
            assert!(wait <= LONGEST, "{given}");
            assert!(deadline(std, wait) >= std, "{given}");
            assert_eq!(moved(wall, SignedDuration::from_secs(given)) < wall, given < 0, "{given}");
        }
        assert_eq!((seconds(-5), seconds(5), seconds(i64::MAX)), (Duration::ZERO, Duration::from_secs(5), LONGEST));
        assert_eq!(deadline(std, Duration::MAX), std + LONGEST);
        assert_eq!(moved(wall, SignedDuration::MAX), Timestamp::MAX);
        assert_eq!(moved(wall, SignedDuration::MIN), Timestamp::MIN);
    }

    #[test]
    fn ages_use_two_units_only_while_they_are_small() {
        for (secs, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (9 * 3600 + 120, "9h"),
            (2 * 86400 + 4 * 3600, "2d4h"),
            (9 * 86400, "9d"),
            (3 * 365 * 86400 + 86400, "3y1d"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(secs)), want, "{secs} s");
        }
    }
}
