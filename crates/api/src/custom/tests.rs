use serde_json::{Value, json};

use super::*;

mod changes;

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
                            "items": {"type": "object", "required": ["id"], "properties": {
                                "id": {"type": "string"}, "weight": {"type": "integer", "default": 1}}}},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "port": {"x-kubernetes-int-or-string": true},
                        "choice": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
    default(&mut object);
    object["status"] = json!({"storedVersions": ["v1"]});
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
    assert_eq!(gone, ["spec.validation.openAPIV3Schema.properties[spec].properties[size].type"]);
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
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "size": {"type": "integer",
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
        ["spec.min: Invalid value: min must not exceed max", "spec: Forbidden: too long: abcd"]
    );
    assert_eq!(
        messages(None, json!({"max": 2})),
        ["spec: Invalid value: \"object\": no such key: min evaluating rule: min must not exceed max"]
    );
    assert_eq!(
        messages(None, json!({"min": 1, "max": 2, "grows": 5})),
        ["spec.grows: Invalid value: 5: failed rule: oldSelf.hasValue() ? self >= oldSelf.value() : self == 0"]
    );
    let old = json!({"min": 1, "max": 2, "fixed": "x", "grows": 3, "parts": [{"id": "a", "size": 5}, {"id": "b", "size": 1}]});
    let changed = json!({"min": 1, "max": 2, "fixed": "y", "grows": 3, "parts": [{"id": "b", "size": 2}, {"id": "a", "size": 4},
        {"id": "c", "size": 0}], "named": {"k": ""}});
    assert_eq!(
        messages(Some(old), changed),
        [
            "spec.fixed: Invalid value: \"y\": is immutable",
            "spec.named[k]: Invalid value: \"\": failed rule: self != ''",
            "spec.parts[1].size: Invalid value: 4: failed rule: self >= oldSelf",
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
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations";
    let fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
    assert_eq!(fields, [format!("{at}[0].rule"), format!("{at}[1].rule"), format!("{at}[2].reason")]);
}

/// What is wrong with a definition whose spec has the given schema.
fn refused(spec: Value) -> Vec<String> {
    let mut object = definition();
    object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec;
    let mut causes = Vec::new();
    check(&object, None, &mut causes);
    causes.into_iter().map(|c| c.message).collect()
}

#[test]
fn rules_in_lists_of_any_length_are_bounded_by_the_request() {
    let item = |rule: &str| {
        json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": rule}]})
    };
    let list = |of: Value| json!({"type": "array", "items": of});
    let limited = |of: Value, most: u64| json!({"type": "array", "maxItems": most, "items": of});
    let map = |of: Value| json!({"type": "object", "additionalProperties": of});
    let object = |of: Value| json!({"type": "object", "properties": {"m": of}});
    let cheap = "has(self.a) || has(self.b)";
    for spec in [
        object(list(item(cheap))),
        object(list(object(list(item(cheap))))),
        object(map(list(item(cheap)))),
        object(map(map(item(cheap)))),
        object(limited(object(list(item(cheap))), 8)),
        object(list(object(limited(item(cheap), 64)))),
        object(list(object(list(object(list(item(cheap))))))),
        object(limited(limited(item(cheap), 1000), 1000)),
    ] {
        assert_eq!(refused(spec.clone()), Vec::<String>::new(), "{spec}");
    }
    // What needs more room for itself is there fewer times.
    let wide = json!({"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "self.kind != 'a' || self.kind != 'b' || self.kind != 'c' || self.kind != 'd' || self.kind != 'e' || self.kind != 'f' || self.kind != 'g' || self.kind != 'h' || self.kind != 'i' || self.kind != 'j' || self.kind != 'k'"}]});
    assert_eq!(refused(object(list(wide.clone()))), Vec::<String>::new());
    let narrow = |mut of: Value| {
        of["required"] = json!([]);
        of
    };
    let told = refused(object(list(narrow(wide))));
    assert!(told.len() == 1 && told[0].contains("estimated rule cost exceeds budget by factor of 3.5x"), "{told:?}");
    let told = refused(object(limited(limited(item(cheap), 10_000), 10_000)));
    assert!(told[0].contains("estimated rule cost exceeds budget by factor of 20.0x"), "{told:?}");
    // Each rule may be cheap enough, and all together not.
    let many: Vec<Value> = (0..30).map(|i| json!({"rule": format!("self.all(x, x != '{i}')")})).collect();
    let told = refused(object(json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": many})));
    assert!(told.len() == 1 && told[0].contains("total for entire OpenAPIv3 schema exceeds budget"), "{told:?}");
}

#[test]
fn nulls_that_are_not_allowed_go_unless_they_have_a_default() {
    let definition = with_spec(json!({"type": "object", "properties": {
        "plugin": {"type": "object", "properties": {"name": {"type": "string"}}},
        "level": {"type": "string", "default": "info"}, "kept": {"type": "string", "nullable": true},
        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
        "sizes": {"type": "object", "additionalProperties": {"type": "integer", "default": 1}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
        "items": {"type": "array", "items": {"type": "string", "default": "a"}}}}));
    let written = json!({"metadata": {"name": "a"}, "spec": {"plugin": null, "level": null, "kept": null,
        "nodeSelector": {"zone": null, "disk": "ssd"}, "sizes": {"a": null}, "list": [{"x": null}], "items": [null]}});
    let mut object = written.clone();
    definition.storage().drop_nulls(&mut object);
    definition.storage().apply_defaults(&mut object);
    assert_eq!(
        object["spec"],
        json!({"level": "info", "kept": null, "nodeSelector": {"disk": "ssd"}, "sizes": {"a": 1}, "list": [{}], "items": ["a"]})
    );
    assert!(definition.storage().check(&object, None).is_empty());
    // Who applies names nulls, and is told so.
    let mut applied = written;
    definition.storage().apply_defaults(&mut applied);
    let told: Vec<String> = definition.storage().check(&applied, None).into_iter().map(|c| c.message).collect();
    let plugin = "spec.plugin in body must be of type object: \"null\"";
    assert!(told.iter().any(|message| message.contains(plugin)), "{told:?}");
}

#[test]
fn resources_in_resources_have_metadata_of_their_own() {
    let definition = with_spec(json!({"type": "object", "properties": {
        "free": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"metadata": {"type": "object"}, "data": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}));
    let inner = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let of = |inner: Value| json!({"metadata": {"name": "a"}, "spec": {"free": inner, "list": [inner]}});
    let mut object = of(inner(json!({"name": "x", "bogus": "y", "creationTimestamp": null})));
    let findings = definition.storage().prune(&mut object);
    assert_eq!(findings.unknown, ["spec.free.metadata.bogus", "spec.list[0].metadata.bogus"]);
    assert_eq!(object["spec"]["free"]["metadata"], json!({"name": "x"}));
    assert_eq!(object["spec"]["list"][0]["metadata"], json!({"name": "x"}));
    assert!(definition.storage().check(&object, None).is_empty());
    let wrong = |inner: Value| definition.storage().prune(&mut of(inner)).mismatched.len();
    assert_eq!(wrong(inner(json!({"labels": {"a": 5}}))), 2);
    assert_eq!(wrong(json!({"apiVersion": 1, "kind": "ConfigMap"})), 2);
    let told = |inner: Value| -> Vec<String> {
        definition.storage().check(&of(inner), None).into_iter().map(|c| c.field).collect()
    };
    assert_eq!(
        told(inner(json!({"labels": {"a": "b c"}}))),
        ["spec.free.metadata.labels", "spec.list[0].metadata.labels"]
    );
    assert_eq!(told(json!({"apiVersion": "v1"})), ["spec.free.kind", "spec.list[0].kind"]);
    assert_eq!(told(json!({"apiVersion": "a/b/c", "kind": "A_b"})).len(), 4);
}

#[test]
fn the_schema_of_metadata_and_formats_are_checked() {
    let mut object = definition();
    let schema = &mut object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["metadata"] =
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}});
    let formats = ["uri", "hostname", "email", "mac", "uuid4", "ipv6", "cidr", "date", "hexcolor", "k8s-short-name"];
    let texts = formats.map(|format| (format.to_string(), json!({"type": "string", "format": format})));
    schema["properties"]["spec"] = json!({"type": "object", "properties": serde_json::Map::from_iter(texts)});
    establish(&mut object, &[]);
    let definition = Definition::read(&object).unwrap();
    let told = |name: &str, spec: Value| -> Vec<String> {
        let causes = definition.storage().check(&json!({"metadata": {"name": name}, "spec": spec}), None);
        causes.into_iter().map(|c| c.field).collect()
    };
    assert_eq!(told("abcd", json!({})), ["metadata.name"]);
    let good = json!({"uri": "https://a/b", "hostname": "a.example", "email": "a@b.c", "mac": "01:23:45:67:89:ab",
        "uuid4": "123e4567-e89b-42d3-a456-426614174000", "ipv6": "::1", "cidr": "10.0.0.0/8", "date": "2026-01-31",
        "hexcolor": "#a0f", "k8s-short-name": "a-b"});
    assert_eq!(told("abc", good), Vec::<String>::new());
    let bad = formats.map(|format| (format.to_string(), json!("no such -thing")));
    assert_eq!(told("abc", Value::Object(serde_json::Map::from_iter(bad))).len(), formats.len());
}

#[test]
fn columns_show_what_has_their_type() {
    let mut object = definition();
    let columns = [
        ("string", r".metadata.annotations.example\.com/name"),
        ("string", r".metadata.labels['example\.com/role']"),
        ("string", ".spec.my-field"),
        ("string", ".spec.l[?(@.key==\"b\")].v"),
        ("string", ".spec.l[*].v"),
        ("string", ".spec.l[0]"),
        ("integer", ".spec.plain"),
        ("integer", ".spec.half"),
        ("boolean", ".spec.plain"),
        ("date", ".spec.plain"),
        ("date", ".spec.half"),
        ("string", ".spec.missing.deeper"),
        ("string", ".spec.l[9].v"),
    ];
    let columns = columns.map(|(kind, path)| json!({"name": path, "type": kind, "jsonPath": path}));
    object["spec"]["versions"][0]["additionalPrinterColumns"] = json!(columns);
    establish(&mut object, &[]);
    let definition = Definition::read(&object).unwrap();
    let object = json!({"metadata": {"name": "a", "annotations": {"example.com/name": "ext"}, "labels": {"example.com/role": "rol"}},
        "spec": {"my-field": "hyp", "plain": "pla", "half": 2.5, "l": [{"key": "a", "v": "1"}, {"key": "b", "v": "two"}]}});
    let table = definition.storage().table(&[object], |_| Value::Null, json!({}));
    assert_eq!(
        table["rows"][0]["cells"],
        json!([
            "a",
            "ext",
            "rol",
            "hyp",
            "two",
            "1",
            "{\"key\":\"a\",\"v\":\"1\"}",
            null,
            2,
            null,
            "<invalid>",
            null,
            null,
            null
        ])
    );
    let described = "Custom resource definition column (in JSONPath format): .spec.my-field";
    assert_eq!(table["columnDefinitions"][3]["description"], described);
}

#[test]
fn a_schema_takes_room_only_when_it_is_used() {
    let definition = established();
    let version = definition.storage();
    assert!(version.read.get().is_none());
    version.apply_defaults(&mut json!({"spec": {}}));
    assert!(version.read.get().is_some());
    assert_eq!(version.schema(), version.read().schema);
}
