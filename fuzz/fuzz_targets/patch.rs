//! Patches of all kinds on an object, each as the first and second half of a JSON array.
#![no_main]

use api::merge::BuiltinStrategy;
use apimachinery::{bounded, patch};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok((Value::Array(pair), _)) = api::decode::json(data) else { return };
    let [object, change] = pair.as_slice() else { return };
    let pod = api::kinds::PODS;
    let _ = patch::strategic_merge(&mut object.clone(), change, &BuiltinStrategy::of(pod));
    let mut patched = object.clone();
    if patch::json_patch(&mut patched, change).is_ok() {
        assert!(bounded::Measure::of(&patched).depth <= bounded::MAX_DEPTH);
    }
    patch::merge_patch(&mut object.clone(), change);
});
