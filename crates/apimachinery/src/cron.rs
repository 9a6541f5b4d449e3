//! Schedules of CronJobs: five fields (crontab(5)), `@daily` and its like, `@every DURATION`.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// When a CronJob is due.
pub enum Schedule {
    Cron(Box<cronexpr::Crontab>),
    Every(SignedDuration),
}

impl Schedule {
    /// Reads `*/5 * * * *`, `@daily` or `@every 90s`; `zone` is a name of the time zone database, UTC by default.
    ///
    /// # Errors
    /// When the schedule can't be read or the zone isn't known.
    pub fn read(text: &str, zone: Option<&str>) -> Result<Self, String> {
        if let Some(every) = text.strip_prefix("@every ") {
            let every: SignedDuration = every.trim().parse().map_err(|e| format!("{e}"))?;
            if every < SignedDuration::from_secs(1) {
                return Err("it must be at least one second".into());
            }
            return Ok(Schedule::Every(every));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let zone = zone.filter(|z| !z.is_empty()).unwrap_or("UTC");
        TimeZone::get(zone).map_err(|e| format!("unknown time zone {zone}: {e}"))?;
        // A question mark is upstream's other way to write a star.
        let line = format!("{} {zone}", fields.replace('?', "*"));
        let cron = cronexpr::parse_crontab(&line).map_err(|e| e.to_string())?;
        Ok(Schedule::Cron(Box::new(cron)))
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Schedule::Cron(cron) => {
                let text = after.to_string();
                let next = cron.find_next(text.as_str()).ok()?;
                Timestamp::from_second(next.timestamp().as_second()).ok()
            }
            Schedule::Every(every) => after.checked_add(*every).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        Schedule::read(schedule, zone).unwrap().next(at(after)).unwrap().to_string()
    }

    #[test]
    fn schedules_are_read_in_all_their_forms() {
        assert_eq!(next("*/5 * * * *", None, "2026-01-01T00:01:00Z"), "2026-01-01T00:05:00Z");
        assert_eq!(next("@daily", None, "2026-01-01T00:01:00Z"), "2026-01-02T00:00:00Z");
        assert_eq!(next("@every 90s", None, "2026-01-01T00:00:00Z"), "2026-01-01T00:01:30Z");
        assert_eq!(next("0 6 * * 1", None, "2026-01-01T00:00:00Z"), "2026-01-05T06:00:00Z");
        // Across the change to summer time, six o'clock stays six o'clock.
        assert_eq!(next("0 6 * * *", Some("Europe/Madrid"), "2026-03-28T06:00:00Z"), "2026-03-29T04:00:00Z");
        for bad in ["* * * *", "61 * * * *", "@sometimes", "@every x", ""] {
            assert!(Schedule::read(bad, None).is_err(), "{bad}");
        }
        assert!(Schedule::read("* * * * *", Some("Mars/Olympus")).is_err());
    }
}
