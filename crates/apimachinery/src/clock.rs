//! Times as the API writes them, and ages as tables print them.

use std::cell::Cell;

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
    now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
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
