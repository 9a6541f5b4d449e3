//! Objects of all kinds on their way in: the schema, defaults, checks, conversion, columns, the Pod Security Standards. The first
//! byte picks the kind.
#![no_main]

use api::pod_security::{self, Level, Standard};
use api::{KINDS, OLDER, columns};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((pick, json)) = data.split_first() else { return };
    let Ok((mut object, _)) = api::decode::json(json) else { return };
    let kinds = || KINDS.iter().chain(OLDER);
    let Some(kind) = kinds().nth(*pick as usize % kinds().count()) else { return };
    if !object.is_object() || !api::schema::types().check(&kind.schema(), &mut object).mismatched.is_empty() {
        return;
    }
    (kind.strategy.prepare_create)(&mut object);
    kind.apply_defaults(&mut object);
    let _ = kind.check(&object, None);
    let _ = kind.check(&object, Some(&object));
    let mut kept = object.clone();
    kind.convert(&mut kept, &kind.kept().api_version());
    kind.convert(&mut kept, &kind.api_version());
    let mut usage = api::quota::Usage::default();
    (kind.strategy.usage)(&object, &mut usage);
    for level in [Level::Baseline, Level::Restricted] {
        let template = (kind.strategy.pod_template)(&object);
        let _ = pod_security::violations(Standard::latest(level), &object["metadata"], &object["spec"]);
        let _ = pod_security::violations(Standard::latest(level), &template["metadata"], &template["spec"]);
    }
    let _ = columns::table(&kind.strategy.printer, &[object], Value::clone, Value::Null);
});
