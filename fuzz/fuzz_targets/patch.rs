//! Patches of all kinds on an object, each as the first and second half of a JSON array.
#![no_main]

use api::merge::BuiltinStrategy;
use apimachinery::patch;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(Value::Array(pair)) = serde_json::from_slice(data) else { return };
    let [object, change] = pair.as_slice() else { return };
    let Some(pod) = api::find("", "v1", "pods") else { return };
    let _ = patch::strategic_merge(&mut object.clone(), change, &BuiltinStrategy::of(pod));
    let _ = patch::json_patch(&mut object.clone(), change);
    patch::merge_patch(&mut object.clone(), change);
});
