//! Sets of managed fields; what is read must survive being written.
#![no_main]

use apimachinery::FieldSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice(data) else { return };
    let Ok(set) = FieldSet::from_v1(&value) else { return };
    assert_eq!(FieldSet::from_v1(&set.to_v1()).as_ref(), Ok(&set));
    let mut both = set.clone();
    both.union(&set);
    assert_eq!(both, set);
    both.subtract(&set);
    assert!(both.is_empty());
});
