//! Server-side apply: an array of what is there, what is applied, and what others own. The first byte picks the kind.
#![no_main]

use api::managed;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((pick, json)) = data.split_first() else { return };
    let Ok((Value::Array(three), _)) = api::decode::json(json) else { return };
    let [live, applied, other] = three.as_slice() else { return };
    let count = api::KINDS.iter().count();
    let Some(kind) = api::KINDS.iter().nth(*pick as usize % count) else { return };
    let of = managed::typed(&kind.schema());
    let merged = of.merge(live, applied);
    let difference = of.compare(live, &merged);
    let mut pruned = merged.clone();
    of.prune(&mut pruned, &of.fields(live), &of.fields(other), &difference.removed);
    // To apply the same again changes nothing.
    let again = of.merge(&merged, applied);
    assert_eq!(of.merge(&again, applied), again);
});
