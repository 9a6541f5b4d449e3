//! Schedules of CronJobs, in the grammar of robfig/cron's `ParseStandard`, which upstream reads them with: five fields, `@daily` and its
//! like, `@every DURATION`.

use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use crate::duration;

/// Years after which a time that a schedule never comes to (30th of February) is given up.
const YEARS: i16 = 5;

/// What a field may hold, and the names that its numbers have.
struct Field {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MINUTES: Field = Field { least: 0, most: 59, names: &[] };
const HOURS: Field = Field { least: 0, most: 23, names: &[] };
const DAYS: Field = Field { least: 1, most: 31, names: &[] };
const MONTHS: Field = Field {
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Field = Field { least: 0, most: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The numbers that a field chooses, as bits; and whether it is written as a star, which chooses all and restricts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chosen {
    bits: u64,
    star: bool,
}

impl Chosen {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).ok().and_then(|n| 1u64.checked_shl(n)).is_some_and(|bit| self.bits & bit != 0)
    }
}

impl Field {
    fn read(&self, text: &str) -> Result<Chosen, String> {
        let mut chosen = Chosen { bits: 0, star: false };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let part = self.range(part)?;
            chosen.bits |= part.bits;
            chosen.star |= part.star;
        }
        Ok(chosen)
    }

    /// `*`, `?`, `NUMBER`, `NUMBER-NUMBER`, each perhaps with `/STEP`.
    fn range(&self, text: &str) -> Result<Chosen, String> {
        let mut by_slash = text.split('/');
        let range = by_slash.next().unwrap_or("");
        let step = by_slash.next();
        if by_slash.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        let mut by_hyphen = range.split('-');
        let low = by_hyphen.next().unwrap_or("");
        let high = by_hyphen.next();
        let mut star = low == "*" || low == "?";
        let (start, mut end) = if star {
            (self.least, self.most)
        } else if by_hyphen.next().is_some() {
            return Err(format!("too many hyphens: {text}"));
        } else {
            let start = self.number(low)?;
            (start, high.map_or(Ok(start), |high| self.number(high))?)
        };
        let step = step.map_or(Ok(1), number)?;
        // `N/STEP` is `N-MOST/STEP`.
        if text.contains('/') && high.is_none() {
            end = self.most;
        }
        // A star with a step restricts, so days of the week and of the month are united then (see `Fields::has_day`).
        star = star && step <= 1;
        if start < self.least {
            return Err(format!("beginning of range ({start}) below minimum ({}): {text}", self.least));
        }
        if end > self.most {
            return Err(format!("end of range ({end}) above maximum ({}): {text}", self.most));
        }
        if start > end {
            return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let numbers = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        Ok(Chosen { bits: numbers.fold(0, |bits, n| bits | 1u64.checked_shl(n).unwrap_or(0)), star })
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match named.and_then(|at| u32::try_from(at).ok()) {
            Some(at) => Ok(self.least.saturating_add(at)),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|e| format!("failed to parse int from {text}: {e}"))?;
    u32::try_from(number).map_err(|_| {
        if number < 0 {
            format!("negative number ({number}) not allowed: {text}")
        } else {
            format!("{number} is too large")
        }
    })
}

/// The five fields of a schedule, and where its clock hangs.
#[derive(Debug, Clone)]
pub struct Fields {
    minute: Chosen,
    hour: Chosen,
    day: Chosen,
    month: Chosen,
    weekday: Chosen,
    zone: TimeZone,
}

impl Fields {
    fn read(text: &str, zone: TimeZone) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        Ok(Fields {
            minute: MINUTES.read(minute)?,
            hour: HOURS.read(hour)?,
            day: DAYS.read(day)?,
            month: MONTHS.read(month)?,
            weekday: WEEKDAYS.read(weekday)?,
            zone,
        })
    }

    /// A day of the month and a day of the week that both restrict are united; a star restricts nothing.
    fn has_day(&self, date: Date) -> bool {
        let (day, weekday) = (self.day.has(date.day()), self.weekday.has(date.weekday().to_sunday_zero_offset()));
        if self.day.star || self.weekday.star { day && weekday } else { day || weekday }
    }

    /// The first minute after `after` whose local date and time are chosen. So a local time that a change of the clock leaves out
    /// isn't there on that day, and one that comes twice is there twice.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let local = |at: Timestamp| -> (DateTime, Offset) {
            let zoned = at.to_zoned(self.zone.clone());
            (zoned.datetime(), zoned.offset())
        };
        let start = |date: Date| self.zone.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok();
        let later = |at: Timestamp, minutes: i8| at.checked_add(i64::from(minutes).minutes()).ok();
        let (first, _) = local(after);
        // The beginning of the next minute.
        let into = SignedDuration::new(
            60i64.saturating_sub(first.second().into()),
            first.subsec_nanosecond().saturating_neg(),
        );
        let mut at = after.checked_add(into).ok()?;
        let most = first.year().checked_add(YEARS)?;
        loop {
            let (now, _) = local(at);
            if now.year() > most {
                return None;
            }
            let date = now.date();
            let next = if !self.month.has(now.month()) {
                start(date.first_of_month().checked_add(1.month()).ok()?)?
            } else if !self.has_day(date) {
                start(date.tomorrow().ok()?)?
            } else if !self.hour.has(now.hour()) {
                later(at, 60i8.saturating_sub(now.minute()))?
            } else if !self.minute.has(now.minute()) {
                later(at, 1)?
            } else {
                return Some(at);
            };
            // Where a day begins before the one that it follows has ended (the clock is put back at midnight), it goes on by hours.
            at = if next > at { next } else { later(at, 60i8.saturating_sub(now.minute()))? };
        }
    }
}

/// When a CronJob is due.
#[derive(Debug, Clone)]
pub enum Schedule {
    Cron(Box<Fields>),
    Every(SignedDuration),
}

impl Schedule {
    /// Reads `*/5 * * * *`, `@daily` or `@every 90s`; `zone` is a name of the time zone database, UTC by default.
    ///
    /// # Errors
    /// When the schedule can't be read or the zone isn't known.
    pub fn read(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = time_zone(zone.unwrap_or(""))?;
        let fields = match text {
            "" => return Err("empty spec string".into()),
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => match other.strip_prefix("@every ") {
                Some(every) => {
                    let every = duration::parse(every)
                        .ok_or_else(|| format!("failed to parse duration {other}: time: invalid duration {every:?}"))?;
                    // Whole seconds, and one at least.
                    return Ok(Schedule::Every(SignedDuration::from_secs((every / 1_000_000_000).max(1))));
                }
                None if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
                None => other,
            },
        };
        Ok(Schedule::Cron(Box::new(Fields::read(fields, zone)?)))
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Schedule::Cron(fields) => fields.next(after),
            Schedule::Every(every) => {
                let whole = SignedDuration::from_nanos(i64::from(after.subsec_nanosecond()));
                after.checked_add(every.checked_sub(whole)?).ok()
            }
        }
    }
}

/// The time zone of this name, written exactly as the time zone database has it; UTC if there is no name.
///
/// # Errors
/// When there is no such zone.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    let unknown = || format!("unknown time zone {name}");
    let zone = TimeZone::get(name).map_err(|_| unknown())?;
    // The database finds names in any case, upstream doesn't.
    if zone.iana_name() == Some(name) { Ok(zone) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        let next = Schedule::read(schedule, zone).unwrap().next(at(after));
        next.map_or_else(|| "never".into(), |next| next.to_string())
    }

    #[test]
    fn schedules_are_read_in_all_their_forms() {
        for (schedule, after, want) in [
            ("*/5 * * * *", "2026-01-01T00:01:00Z", "2026-01-01T00:05:00Z"),
            ("*/5 * * * *", "2026-01-01T00:05:00Z", "2026-01-01T00:10:00Z"),
            ("* * * * *", "2026-01-01T00:01:00.5Z", "2026-01-01T00:02:00Z"),
            ("@daily", "2026-01-01T00:01:00Z", "2026-01-02T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00.25Z", "2026-01-01T00:01:30Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("@every 1.9s", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
            ("@every -5s", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
            ("0 6 * * 1", "2026-01-01T00:00:00Z", "2026-01-05T06:00:00Z"),
            ("0 6 * * MON", "2026-01-01T00:00:00Z", "2026-01-05T06:00:00Z"),
            ("0 0 ? * mon-wed", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 1 Feb,aug *", "2026-03-01T00:00:00Z", "2026-08-01T00:00:00Z"),
            // A step as large as the range, and larger, leaves the first.
            ("0 */24 * * *", "2026-01-01T05:00:00Z", "2026-01-02T00:00:00Z"),
            ("*/60 * * * *", "2026-01-01T05:01:00Z", "2026-01-01T06:00:00Z"),
            ("0 0 */45 * *", "2026-01-02T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("0 0 * * */7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            // A number with a step goes on to the end.
            ("50/5 * * * *", "2026-01-01T00:51:00Z", "2026-01-01T00:55:00Z"),
            ("10-20/7 * * * *", "2026-01-01T00:11:00Z", "2026-01-01T00:17:00Z"),
            ("5,1,5,, * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*-7 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("+5 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"),
            ("  0\t6 * *  1 ", "2026-01-01T00:00:00Z", "2026-01-05T06:00:00Z"),
            ("0 0 31 * *", "2026-02-01T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 29 2 *", "2026-02-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
            (", * * * *", "2026-01-01T00:00:00Z", "never"),
        ] {
            assert_eq!(next(schedule, None, after), want, "{schedule} after {after}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4"),
            ("* * * * * *", "expected exactly 5 fields, found 6"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("0 0 * * 7", "end of range (7) above maximum (6): 7"),
            ("0 0 * * sun-sat/0", "step of range should be a positive number: sun-sat/0"),
            ("9-3 * * * *", "beginning of range (9) beyond end of range (3): 9-3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("99999999999 * * * *", "99999999999 is too large"),
            ("0 0 L * *", "failed to parse int from L"),
            ("0 0 15W * *", "failed to parse int from 15W"),
            ("0 0 * * 5#2", "failed to parse int from 5#2"),
            ("0 0 * jan mon day", "expected exactly 5 fields, found 6"),
            ("0 jan * * *", "failed to parse int from jan"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("@Daily", "unrecognized descriptor: @Daily"),
            ("@every x", "failed to parse duration @every x"),
            ("@every 1d", "failed to parse duration @every 1d"),
            ("TZ=UTC 0 0 * * *", "expected exactly 5 fields, found 6"),
        ] {
            let said = Schedule::read(bad, None).err().unwrap_or_default();
            assert!(said.starts_with(why), "{bad:?}: {said}");
        }
        for zone in ["Mars/Olympus", "europe/madrid", "utc", "../etc/passwd", "Local"] {
            assert_eq!(Schedule::read("* * * * *", Some(zone)).err(), Some(format!("unknown time zone {zone}")));
        }
        for zone in ["", "UTC", "Etc/UTC", "Europe/Madrid", "America/New_York"] {
            assert!(Schedule::read("* * * * *", Some(zone)).is_ok(), "{zone}");
        }
    }

    /// The 1st of January 2026 is a Thursday.
    #[test]
    fn days_of_the_month_and_of_the_week_are_united_unless_one_is_a_star() {
        for (schedule, want) in [
            ("0 0 * * 1", "2026-01-05T00:00:00Z"),
            ("0 0 10 * *", "2026-01-10T00:00:00Z"),
            ("0 0 10 * 1", "2026-01-05T00:00:00Z"),
            ("0 0 3 * 1", "2026-01-03T00:00:00Z"),
            // A star with a step restricts, though it is written with a star.
            ("0 0 */31 * 1", "2026-01-05T00:00:00Z"),
            ("0 0 10 * */6", "2026-01-03T00:00:00Z"),
            ("0 0 */1 * 1", "2026-01-05T00:00:00Z"),
            // Among several parts one star is enough.
            ("0 0 10,* * 1", "2026-01-05T00:00:00Z"),
        ] {
            assert_eq!(next(schedule, None, "2026-01-01T00:00:00Z"), want, "{schedule}");
        }
    }

    #[test]
    fn the_clock_of_a_zone_leaves_times_out_and_has_them_twice() {
        let new_york = Some("America/New_York");
        for (schedule, zone, after, want) in [
            // Across the change to summer time, six o'clock stays six o'clock.
            ("0 6 * * *", Some("Europe/Madrid"), "2026-03-28T06:00:00Z", "2026-03-29T04:00:00Z"),
            // 2026-03-08, 2:00 is 3:00 at once: half past two isn't there on that day.
            ("30 2 * * *", new_york, "2026-03-07T12:00:00Z", "2026-03-09T06:30:00Z"),
            ("0 * * * *", new_york, "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
            // 2026-11-01, 2:00 is 1:00 again: half past one is there twice.
            ("30 1 * * *", new_york, "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"),
            ("30 1 * * *", new_york, "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
            ("30 1 * * *", new_york, "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"),
            // The clock goes from 0:00 to 1:00: that day has no midnight, and begins at one.
            ("0 0 * * *", Some("America/Asuncion"), "2023-09-30T12:00:00Z", "2023-10-02T03:00:00Z"),
            ("0 1 1 10 *", Some("America/Asuncion"), "2023-09-01T12:00:00Z", "2023-10-01T04:00:00Z"),
            // It goes back at midnight: eleven is there twice.
            ("0 23 * * *", Some("America/Asuncion"), "2023-03-26T02:00:00Z", "2023-03-26T03:00:00Z"),
            ("0 0 26 3 *", Some("America/Asuncion"), "2023-03-25T12:00:00Z", "2023-03-26T04:00:00Z"),
            // By half an hour.
            ("45 1 * * *", Some("Australia/Lord_Howe"), "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"),
            ("0 0 1 1 *", Some("Asia/Kathmandu"), "2026-01-01T00:00:00Z", "2026-12-31T18:15:00Z"),
        ] {
            assert_eq!(next(schedule, zone, after), want, "{schedule} in {zone:?} after {after}");
        }
    }

    #[test]
    fn no_time_is_too_far() {
        for schedule in ["* * * * *", "0 0 30 2 *", "@every 2540400h"] {
            let schedule = Schedule::read(schedule, Some("America/New_York")).unwrap();
            for after in [Timestamp::MIN, Timestamp::MAX] {
                let _ = schedule.next(after);
            }
        }
    }

    proptest::proptest! {
        /// Whatever is chosen, the next time is the first minute that fits; and what isn't a schedule isn't a panic.
        #[test]
        fn the_next_time_is_the_first_that_fits(
            text in "[0-9*/,?-]{1,5} [0-9*/,?-]{1,4} [0-9*/]{1,3} [0-9*]{1,2} [0-6*]",
            seconds in 1_700_000_000_i64..1_900_000_000,
        ) {
            let zone = Some("Europe/Madrid");
            let Ok(Schedule::Cron(fields)) = Schedule::read(&text, zone) else { return Ok(()) };
            let after = Timestamp::from_second(seconds).unwrap();
            let next = fields.next(after);
            let fits = |at: Timestamp| {
                let now = at.to_zoned(fields.zone.clone());
                fields.month.has(now.month()) && fields.has_day(now.date()) && fields.hour.has(now.hour())
                    && fields.minute.has(now.minute()) && now.second() == 0
            };
            let minutes = (1..=3000_i64).map(|n| Timestamp::from_second((seconds / 60 + n) * 60).unwrap());
            for at in minutes {
                if next == Some(at) {
                    break;
                }
                proptest::prop_assert!(!fits(at), "{} after {}: {:?} instead of {}", text, after, next, at);
            }
            proptest::prop_assert!(next.is_none_or(|next| next > after && fits(next)));
        }
    }
}
