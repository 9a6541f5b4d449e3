//! Custom kinds: a definition's schema, and an object of it. What passed once passes again, and to prune is to have pruned.
#![no_main]

use api::custom::Definition;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Ok((Value::Array(mut pair), _)) = api::decode::json(data) else { return };
    if pair.len() != 2 || !pair[1].is_object() {
        return;
    }
    let (mut object, schema) = (pair.remove(1), pair.remove(0));
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.b.c"},
        "spec": {"group": "b.c", "scope": "Namespaced", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "x", "type": "string", "jsonPath": ".spec.x"}]}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]}});
    let kind = api::kinds::CUSTOM_RESOURCE_DEFINITIONS;
    let mut definition = definition;
    if !api::schema::types().check(&kind.schema(), &mut definition).mismatched.is_empty() {
        return;
    }
    kind.apply_defaults(&mut definition);
    if !kind.check(&definition, None).is_empty() {
        return;
    }
    let Some(read) = Definition::read(&definition) else { return };
    let version = read.storage();
    let _ = version.prune(&mut object);
    version.drop_nulls(&mut object);
    version.apply_defaults(&mut object);
    let once = object.clone();
    assert!(version.prune(&mut object).unknown.is_empty());
    version.apply_defaults(&mut object);
    assert_eq!(object, once);
    let found = version.check(&object, None);
    assert!(version.check(&object, Some(&object)).len() <= found.len() + 1);
    let typed = read.typed("v1");
    let merged = typed.merge(&object, &once);
    let _ = typed.compare(&object, &merged);
    let _ = version.table(&[object], Value::clone, Value::Null);
});
