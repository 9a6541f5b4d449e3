//! What is wrong with an object that replaces another, in upstream's words.

use serde_json::{Value, json};

use super::*;

/// A kind whose version has a schema of its own, and what is wrong with an update from one spec to another.
fn updated(spec: Value, old: Value, new: Value) -> Vec<String> {
    let object = |spec: Value| json!({"metadata": {"name": "a", "resourceVersion": spec.to_string()}, "spec": spec});
    let causes = with_spec(spec).storage().check(&object(new), Some(&object(old)));
    causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

#[test]
fn what_has_not_changed_is_not_judged_anew() {
    let fields = json!({"type": "object", "properties": {
        "text": {"type": "string", "maxLength": 3},
        "other": {"type": "string"},
        "inner": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
        "few": {"type": "array", "maxItems": 1, "items": {"type": "string", "minLength": 2}},
        "even": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
            "items": {"type": "object", "required": ["name", "port"], "properties": {
                "name": {"type": "string"}, "port": {"type": "integer", "multipleOf": 2}, "more": {"type": "string"}}}}}});
    let check = |old: Value, new: Value| updated(fields.clone(), old, new);
    // The same value stays, another one that is as wrong doesn't.
    assert!(check(json!({"text": "long"}), json!({"text": "long", "other": "x"})).is_empty());
    assert_eq!(
        check(json!({"text": "long"}), json!({"text": "else"})),
        ["spec.text: Too long: may not be more than 3 bytes"]
    );
    // What an object lacks is that object's fault.
    assert!(check(json!({"inner": {"b": "x"}}), json!({"inner": {"b": "x"}, "other": "x"})).is_empty());
    assert_eq!(check(json!({"inner": {"b": "x"}}), json!({"inner": {"b": "y"}})), ["spec.inner.a: Required value"]);
    // A plain list is one value.
    assert!(check(json!({"few": ["x", "y"]}), json!({"few": ["x", "y"], "other": "x"})).is_empty());
    assert_eq!(check(json!({"few": ["x", "y"]}), json!({"few": ["x", "z"]})).len(), 3);
    // Items with keys are found again, wherever they stand.
    let item = |name: &str, port: i64, more: &str| json!({"name": name, "port": port, "more": more});
    let old = json!({"even": [item("a", 443, ""), item("b", 80, "")]});
    assert!(check(old.clone(), json!({"even": [item("b", 80, ""), item("a", 443, "")]})).is_empty());
    assert!(check(old.clone(), json!({"even": [item("c", 8, ""), item("a", 443, "more")]})).is_empty());
    assert_eq!(
        check(old, json!({"even": [item("a", 445, "")]})),
        ["spec.even[0].port: Invalid value: 445: spec.even[0].port in body should be a multiple of 2"]
    );
}

#[test]
fn sets_that_had_duplicates_may_have_them() {
    let of = json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}, "n": {"type": "integer"}}});
    assert_eq!(updated(of.clone(), json!({}), json!({"set": [1, 2, 1, 1]})), ["spec.set[2]: Duplicate value: 1"]);
    assert!(updated(of, json!({"set": [1, 1]}), json!({"set": [1, 1, 2], "n": 1})).is_empty());
}

#[test]
fn rules_are_asked_of_values_of_the_right_kinds() {
    let of = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a == self.b", "message": "differ"}],
        "properties": {"a": {"type": "string", "pattern": "^x$"}, "b": {"type": "string", "enum": ["x", "y"]}}});
    // A text that doesn't match is a text.
    let found = updated(of.clone(), json!({}), json!({"a": "y", "b": "x"}));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].ends_with("differ"), "{found:?}");
    let found = updated(of, json!({}), json!({"a": "x", "b": "z"}));
    assert!(
        found[1].starts_with("<nil>: Invalid value: \"null\": some validation rules were not checked"),
        "{found:?}"
    );
}

#[test]
fn what_fits_no_schema_or_several_is_told_as_upstream_does() {
    let of = |what: &str| {
        json!({"type": "object", "properties": {"x": {"type": "object", what: [
            {"required": ["a"], "properties": {"a": {"maxLength": 1}}}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}}}}})
    };
    let check = |what: &str, x: Value| updated(of(what), json!({}), json!({"x": x}));
    assert_eq!(
        check("oneOf", json!({"a": "a", "b": "b"})),
        [
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
        ]
    );
    assert_eq!(
        check("oneOf", json!({"c": "c"})),
        [
            "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
            "spec.x.a: Required value"
        ]
    );
    assert_eq!(
        check("anyOf", json!({"a": "long"})),
        [
            "<nil>: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)",
            "spec.x.a: Too long: may not be more than 1 bytes"
        ]
    );
    assert!(check("anyOf", json!({"a": "long", "b": "b"})).is_empty());
    assert_eq!(
        check("allOf", json!({"a": "a"})),
        ["spec.x.b: Required value", "<nil>: Invalid value: \"\": \"spec.x\" must validate all the schemas (allOf)"]
    );
}

#[test]
fn numbers_fit_their_formats_and_sizes_are_told() {
    let of = json!({"type": "object", "properties": {
        "int": {"type": "integer", "format": "int32"}, "float": {"type": "number", "maximum": 0.5},
        "date": {"type": "string", "format": "date"}, "either": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "minItems": 2, "items": {"type": "string"}},
        "map": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}}});
    for (field, value, told) in [
        (
            "int",
            json!(2_147_483_648_i64),
            "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.int",
        ),
        ("float", json!(1), "spec.float: Invalid value: 1: spec.float in body should be less than or equal to 0.5"),
        ("date", json!(1), "spec.date: Invalid value: \"int64\": spec.date in body must be of type date: \"int64\""),
        (
            "either",
            json!(true),
            "spec.either: Invalid value: \"boolean\": spec.either in body must be of type integer,string: \"boolean\"",
        ),
        ("list", json!(["a"]), "spec.list: Invalid value: 1: spec.list in body should have at least 2 items"),
        ("map", json!({}), "spec.map: Invalid value: 0: spec.map in body should have at least 1 properties"),
    ] {
        assert_eq!(updated(of.clone(), json!({}), json!({ field: value })), [told]);
    }
}

#[test]
fn a_status_is_judged_by_its_own_schema() {
    let mut object = definition();
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string", "maxLength": 2}}}}});
    object["spec"]["versions"][0]["subresources"]["scale"] = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"});
    establish(&mut object, &[]);
    let definition = Definition::read(&object).unwrap();
    let check = |old: Value, new: Value| -> Vec<String> {
        let causes = definition.storage().check_status(&new, &old);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    };
    // An object of before, without the spec that its schema wants by now.
    assert!(check(json!({}), json!({"status": {"replicas": 1, "phase": "up"}})).is_empty());
    assert_eq!(
        check(json!({}), json!({"status": {"phase": "down"}})),
        ["status.phase: Too long: may not be more than 2 bytes"]
    );
    assert!(
        check(json!({"status": {"phase": "down"}}), json!({"status": {"phase": "down", "replicas": 1}})).is_empty()
    );
    assert_eq!(
        check(json!({}), json!({"status": {"replicas": -1, "selector": 3}})),
        [
            ".status.replicas: Invalid value: -1: should be a non-negative integer",
            ".status.selector: Invalid value: \"\": .status.selector accessor error: 3 is of the type int64, expected string"
        ]
    );
    let causes = definition.storage().check(&json!({"spec": {"size": 3_000_000_000_i64}}), None);
    assert_eq!(causes[0].message, "Invalid value: 3000000000: should be less than or equal to 2147483647");
}

#[test]
fn defaults_keep_the_rules_of_their_schema() {
    let refusals = |default: Value| {
        let mut object = definition();
        object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["n"] = json!({
            "type": "integer", "default": default, "x-kubernetes-validations": [{"rule": "self > 1", "message": "too small"}]});
        let mut causes = Vec::new();
        check(&object, None, &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>()
    };
    assert!(refusals(json!(2)).is_empty());
    let path = "spec.validation.openAPIV3Schema.properties[spec].properties[n].default";
    assert_eq!(refusals(json!(1)), [format!("{path}: Invalid value: 1: too small")]);
}
