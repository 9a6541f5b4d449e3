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
    /// By the five fields of cron.
    Cron(Box<Fields>),
    /// `@every 1h30m`: after this time again and again.
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
mod tests;
