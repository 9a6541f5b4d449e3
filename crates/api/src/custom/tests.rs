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
        let causes = definition.storage().check(&json!({"metadata": {"name": "a"}, "spec": spec}));
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
