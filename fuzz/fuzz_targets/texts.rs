//! Texts that clients send: selectors, quantities, schedules, names, ranges.
#![no_main]

use apimachinery::cron::Schedule;
use apimachinery::jsonpath::Path;
use apimachinery::{FieldSelector, LabelSelector, Quantity, names, ranges};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(amount) = text.parse::<Quantity>() {
        assert_eq!(Quantity::canonical_text(text).and_then(|text| text.parse()), Ok(amount));
        let _ = (amount.canonical(true), amount.canonical(false), amount.milli(), amount.value());
    }
    let _ = LabelSelector::parse(text);
    let _ = FieldSelector::parse(text);
    let _ = Schedule::read(text, None);
    if let Ok(path) = Path::parse(text) {
        let data = serde_json::json!({"a": [1, {"b": "c"}], "d.e": {"f": null}});
        let _ = path.find(&data, true);
    }
    let _ = names::qualified_name(text);
    if let Some(set) = ranges::read(text) {
        assert_eq!(ranges::read(&ranges::write(&set)), Some(set));
    }
});
