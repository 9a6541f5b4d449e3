use serde_json::{Value, json};

use super::*;

fn definition() -> Value {
    let mut object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab", "shortNames": ["tb"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 1, "maximum": 9},
                        "color": {"type": "string", "enum": ["red", "blue"], "default": "blue"},
                        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                            "items": {"type": "object", "properties": {
                                "id": {"type": "string"}, "weight": {"type": "integer", "default": 1}}}},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "port": {"x-kubernetes-int-or-string": true},
                        "choice": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
    default(&mut object);
    object
}

fn established() -> Arc<Definition> {
    let mut object = definition();
    establish(&mut object, &[]);
    Definition::read(&object).unwrap()
}

#[test]
fn unknown_fields_go_where_the_schema_has_none() {
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": "a", "bad": 1},
        "extra": 1, "spec": {"size": 1, "typo": 2, "free": {"x": {"y": 1}}, "parts": [{"id": "a", "z": 1}]}});
    let findings = established().storage().prune(&mut object);
    assert_eq!(findings.unknown, ["spec.parts[0].z", "spec.typo", "extra", "metadata.bad"]);
    assert_eq!(object["spec"], json!({"size": 1, "free": {"x": {"y": 1}}, "parts": [{"id": "a"}]}));
}

#[test]
fn defaults_are_filled_in_below_what_is_there() {
    let mut object = json!({"spec": {"size": 1, "color": null, "parts": [{"id": "a"}]}});
    established().storage().apply_defaults(&mut object);
    assert_eq!(object, json!({"spec": {"size": 1, "color": "blue", "parts": [{"id": "a", "weight": 1}]}}));
}

#[test]
fn values_are_checked_and_named() {
    let definition = established();
    let messages = |spec: Value| -> Vec<String> {
        let causes = definition.storage().check(&json!({"metadata": {"name": "a"}, "spec": spec}), None);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    };
    assert!(messages(json!({"size": 3, "port": "web", "choice": {"a": "x"}})).is_empty());
    assert_eq!(messages(json!({})), ["spec.size: Required value"]);
    assert_eq!(
        messages(json!({"size": "x"})),
        ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]
    );
    assert_eq!(
        messages(json!({"size": 0})),
        ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]
    );
    assert_eq!(
        messages(json!({"size": 1, "color": "green"})),
        ["spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""]
    );
    assert_eq!(
        messages(json!({"size": 1, "name": "A"})),
        ["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"]
    );
    assert_eq!(
        messages(json!({"size": 1, "parts": [{"id": "a"}, {"id": "a"}]})),
        ["spec.parts[1]: Duplicate value: {\"id\":\"a\"}"]
    );
    assert_eq!(messages(json!({"size": 1, "choice": {"a": "x", "b": "y"}})).len(), 1);
    assert_eq!(messages(json!({"size": 1, "port": {}})).len(), 1);
}

#[test]
fn columns_follow_their_paths() {
    let object = json!({"metadata": {"name": "a"}, "spec": {"size": 3},
        "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]}});
    let table = established().storage().table(&[object], |_| Value::Null, json!({}));
    assert_eq!(table["rows"][0]["cells"], json!(["a", 3, "True"]));
}

#[test]
fn malformed_definitions_are_refused_field_by_field() {
    let refused = |change: &dyn Fn(&mut Value)| -> Vec<String> {
        let mut object = definition();
        change(&mut object);
        let mut causes = Vec::new();
        check(&object, None, &mut causes);
        causes.into_iter().map(|c| c.field).collect()
    };
    assert!(refused(&|_| {}).is_empty());
    assert_eq!(refused(&|o| o["metadata"]["name"] = "x".into()), ["metadata.name"]);
    assert_eq!(refused(&|o| o["spec"]["scope"] = "Galaxy".into()), ["spec.scope"]);
    assert_eq!(refused(&|o| o["spec"]["versions"][0]["storage"] = false.into()), ["spec.versions"]);
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size";
    let gone = refused(&|o| {
        o.pointer_mut(schema).unwrap().as_object_mut().unwrap().remove("type");
    });
    assert_eq!(gone, ["spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[size].type"]);
}

#[test]
fn names_that_are_taken_are_not_accepted() {
    let first = established();
    let mut second = definition();
    second["metadata"]["name"] = "others.example.com".into();
    second["spec"]["names"] = json!({"plural": "others", "kind": "Other", "shortNames": ["tb"]});
    default(&mut second);
    establish(&mut second, &[first.storage().kind]);
    assert_eq!(second["status"]["conditions"][0]["reason"], "ShortNameConflict");
    assert!(Definition::read(&second).is_none());
}

/// A definition whose spec has the given schema.
fn with_spec(spec: Value) -> Arc<Definition> {
    let mut object = definition();
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec;
    let mut causes = Vec::new();
    check(&object, None, &mut causes);
    assert!(causes.is_empty(), "{causes:?}");
    establish(&mut object, &[]);
    Definition::read(&object).unwrap()
}

#[test]
fn rules_are_about_values_and_their_changes() {
    let definition = with_spec(json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min must not exceed max", "fieldPath": ".min"},
            {"rule": "!has(self.note) || self.note.size() < 4", "messageExpression": "'too long: ' + self.note",
             "reason": "FieldValueForbidden"}],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "note": {"type": "string"},
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
            "grows": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() ? self >= oldSelf.value() : self == 0", "optionalOldSelf": true}]},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "properties": {"id": {"type": "string"}, "size": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}},
            "named": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self != ''"}]}}}}));
    let messages = |old: Option<Value>, spec: Value| -> Vec<String> {
        let object = json!({"metadata": {"name": "a"}, "spec": spec});
        let old = old.map(|spec| json!({"metadata": {"name": "a"}, "spec": spec}));
        let causes = definition.storage().check(&object, old.as_ref());
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(messages(None, json!({"min": 1, "max": 2, "note": "abc", "fixed": "x", "grows": 0})), none);
    assert_eq!(
        messages(None, json!({"min": 3, "max": 2, "note": "abcd"})),
        ["spec.min: Invalid value: \"object\": min must not exceed max", "spec: Forbidden: too long: abcd"]
    );
    assert_eq!(
        messages(None, json!({"max": 2})),
        ["spec: Invalid value: \"object\": no such key: min evaluating rule: min must not exceed max"]
            .map(|s| s.replace("spec:", "spec.min:"))
    );
    assert_eq!(
        messages(None, json!({"min": 1, "max": 2, "grows": 5})),
        [
            "spec.grows: Invalid value: \"integer\": failed rule: oldSelf.hasValue() ? self >= oldSelf.value() : self == 0"
        ]
    );
    let old = json!({"min": 1, "max": 2, "fixed": "x", "grows": 3, "parts": [{"id": "a", "size": 5}, {"id": "b", "size": 1}]});
    let changed = json!({"min": 1, "max": 2, "fixed": "y", "grows": 3, "parts": [{"id": "b", "size": 2}, {"id": "a", "size": 4},
        {"id": "c", "size": 0}], "named": {"k": ""}});
    assert_eq!(
        messages(Some(old), changed),
        [
            "spec.fixed: Invalid value: \"string\": is immutable",
            "spec.named[k]: Invalid value: \"string\": failed rule: self != ''",
            "spec.parts[1].size: Invalid value: \"integer\": failed rule: self >= oldSelf",
        ]
    );
    // What was wrong before and didn't change is let through.
    assert_eq!(messages(Some(json!({"min": 3, "max": 2})), json!({"min": 3, "max": 2})), none);
    // Rules wait until the value has the right form.
    let unchecked = messages(None, json!({"min": "x", "max": 2}));
    assert!(unchecked.len() == 2 && unchecked[1].contains("some validation rules were not checked"), "{unchecked:?}");
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    let mut object = definition();
    let spec = &mut object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["x-kubernetes-validations"] =
        json!([{"rule": "self.size >"}, {"rule": "size > 1"}, {"rule": "true", "reason": "No"}]);
    let mut causes = Vec::new();
    check(&object, None, &mut causes);
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations";
    let fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
    assert_eq!(fields, [format!("{at}[0].rule"), format!("{at}[1].rule"), format!("{at}[2].reason")]);
}
