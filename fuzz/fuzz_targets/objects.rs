//! Objects of all kinds on their way in: the schema, defaults, checks. The first byte picks the kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((pick, json)) = data.split_first() else { return };
    let Ok(mut object) = serde_json::from_slice::<serde_json::Value>(json) else { return };
    let count = api::KINDS.iter().count();
    let Some(kind) = api::KINDS.iter().nth(*pick as usize % count) else { return };
    if !object.is_object() || !api::schema::types().check(&kind.schema(), &mut object).mismatched.is_empty() {
        return;
    }
    kind.apply_defaults(&mut object);
    let _ = kind.check(&object, None);
    let _ = kind.check(&object, Some(&object));
});
