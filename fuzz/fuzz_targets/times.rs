//! Schedules and time zones at any time; amounts, durations, paths into objects.
#![no_main]

use apimachinery::cron::Schedule;
use apimachinery::jsonpath::{self, Path};
use apimachinery::{Quantity, clock, duration};
use k8s_openapi::jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str, i64)| {
    let (text, other, seconds) = parts;
    let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
    let time = Timestamp::from_second(seconds.clamp(*range.start(), *range.end())).unwrap_or_default();
    for zone in [None, Some(other)] {
        let Ok(schedule) = Schedule::read(text, zone) else { continue };
        for after in [time, Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            assert!(schedule.next(after).is_none_or(|next| next > after));
        }
    }
    let _ = (duration::parse(text), clock::age(text, time));
    if let (Ok(one), Ok(two)) = (text.parse::<Quantity>(), other.parse::<Quantity>()) {
        let _ = (one.cmp(&two), one + two, one - two, one.as_f64());
    }
    if let (Ok(path), Ok(data)) = (Path::parse(text), serde_json::from_str(other)) {
        for may_miss in [false, true] {
            for found in path.find(&data, may_miss).unwrap_or_default() {
                let _ = jsonpath::text(found);
            }
        }
    }
});
