use super::*;

/// Names that are keywords of schemas, too.
const KEYWORDS: [&str; 16] = [
    "type",
    "format",
    "items",
    "properties",
    "default",
    "$ref",
    "required",
    "enum",
    "nullable",
    "allOf",
    "anyOf",
    "not",
    "additionalProperties",
    "description",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
];

fn with_names_of_keywords(of: &Value) -> Value {
    let properties: Map<String, Value> = KEYWORDS.iter().map(|name| ((*name).to_string(), of.clone())).collect();
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

#[test]
fn properties_may_have_the_names_of_keywords() {
    let inner = json!({"type": "object", "properties": {
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "maybe": {"type": "string", "nullable": true}}, "required": ["port", "maybe"], "default": {"$ref": "x", "not": 1}});
    let published = v2::custom(with_names_of_keywords(&inner));
    for name in KEYWORDS {
        let of = &published["properties"]["spec"]["properties"][name];
        assert_eq!(of["type"], "object", "{name}: {of}");
        assert_eq!(of["required"], json!(["port"]), "{name}");
        assert_eq!(of["properties"]["port"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(of["properties"]["maybe"], json!({}), "{name}");
        // A default is a value, whatever its members are called.
        assert_eq!(of["default"], json!({"$ref": "x", "not": 1}), "{name}");
    }
    let mut found = BTreeSet::new();
    references(
        &with_names_of_keywords(&json!({"type": "array", "items": {"$ref": "#/components/schemas/a.B"}})),
        &mut found,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a.B"]);
    // Go reads every schema as an object.
    let mut seen = 0;
    let mut all = published.clone();
    visit_mut(&mut all, &mut |of| {
        seen += 1;
        assert!(of.get("properties").is_none_or(|p| p.as_object().is_some_and(|p| p.values().all(Value::is_object))));
    });
    assert!(seen > 3 * KEYWORDS.len());
}

#[test]
fn v2_has_what_its_readers_understand() {
    let published = v2::custom(json!({"type": "object", "properties": {
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
        "list": {"type": "array", "nullable": true, "items": {"type": "string"}},
        "one": {"type": "object", "oneOf": [{"required": ["a"]}], "properties": {"a": {"type": "string"}}},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        "any": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}));
    let of = &published["properties"];
    assert_eq!(of["free"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(of["list"], json!({}));
    assert_eq!(of["one"], json!({"type": "object", "properties": {"a": {"type": "string"}}}));
    assert_eq!(of["pod"]["required"], json!(["kind", "apiVersion"]));
    let metadata = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(of["pod"]["properties"]["metadata"]["$ref"], metadata);
    assert_eq!(of["metadata"]["$ref"], metadata);
    assert_eq!(
        of["any"],
        json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true})
    );
    let root = v2::custom(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {}}));
    assert_eq!(root, json!({"type": "object"}));
}
