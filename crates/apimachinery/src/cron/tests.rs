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
