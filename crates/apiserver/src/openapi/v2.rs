//! `/openapi/v2`: one document of all types, for clients older than OpenAPI v3 (kubectl before 1.27 reads nothing else,
//! and that as protobuf, in the messages of gnostic's `OpenAPIv2.proto`).

use serde_json::{Map, Value, json};

use api::schema;

use super::Made;
use crate::KUBERNETES_VERSION;
use crate::registry::Catalog;

/// As upstream answers: what clients ask for has an `@`, which is no character of a media type.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How long clients may keep the document: they ask again, and are told when it is the same.
const CACHE_CONTROL: &str = "no-cache, private";

/// The document as JSON.
pub fn as_json(catalog: &Catalog) -> Made {
    let bytes = crate::json::to_vec(&document(catalog));
    Made { bytes, content_type: "application/json", cache_control: CACHE_CONTROL }
}

/// The document as protobuf.
pub fn as_protobuf(catalog: &Catalog) -> Made {
    Made { bytes: protobuf(&document(catalog)), content_type: PROTOBUF, cache_control: CACHE_CONTROL }
}

fn document(catalog: &Catalog) -> Value {
    let (types, docs) = schema::raw();
    let mut definitions: Map<String, Value> =
        types.iter().map(|(name, of)| (name.clone(), moved(super::with_docs(name, of, &docs), true))).collect();
    for kind in catalog.kinds() {
        let definition = catalog.definition(kind);
        if let Some(version) = definition.as_ref().and_then(|d| d.version(kind.version)) {
            definitions.insert(kind.schema(), custom(version.schema()));
        }
    }
    // Any value at all, which v2 says by saying no type.
    for name in ["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"] {
        let full = format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{name}");
        if let Some(of) = definitions.get_mut(&full).and_then(Value::as_object_mut) {
            of.retain(|key, _| key == "description");
        }
    }
    for kind in catalog.kinds() {
        if let Some(of) = definitions.get_mut(&kind.schema()) {
            of["x-kubernetes-group-version-kind"] =
                json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        }
    }
    let mut paths = Map::new();
    for kind in catalog.kinds() {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        super::add_paths(kind, &gvk, &mut paths);
    }
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|item| item.values_mut()) {
        *operation = operation_of_v2(operation);
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION}, "paths": paths,
           "definitions": definitions})
}

/// An operation of v3 as v2 has it: the body is a parameter, and media types stand apart from schemas.
fn operation_of_v2(operation: &Value) -> Value {
    let mut out = operation.clone();
    let mut parameters: Vec<Value> = Vec::new();
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        out["consumes"] = content.keys().cloned().collect();
        let schema = content.values().next().map(|media| moved(media["schema"].clone(), true));
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        parameters.push(json!({"name": parameter["name"], "in": "query", "type": "string", "uniqueItems": true}));
    }
    out["parameters"] = parameters.into();
    let schema = moved(operation["responses"]["200"]["content"]["application/json"]["schema"].clone(), true);
    out["responses"] = json!({"200": {"description": "OK", "schema": schema}});
    out["produces"] = json!(["application/json", "application/yaml", api::protobuf::MEDIA_TYPE]);
    if let Some(map) = out.as_object_mut() {
        map.remove("requestBody");
    }
    out
}

/// The schema of a custom kind, without what v2 or its readers can't cope with (upstream's `ToStructuralOpenAPIV2`).
pub(super) fn custom(mut schema: Value) -> Value {
    // With properties, clients would refuse all other fields.
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return json!({"type": "object"});
    }
    super::visit_mut(&mut schema, &mut |of| {
        let is_set = |of: &Map<String, Value>, key: &str| of.get(key) == Some(&Value::Bool(true));
        let (is_nullable, is_free) = (is_set(of, "nullable"), is_set(of, "x-kubernetes-preserve-unknown-fields"));
        if is_nullable || is_free {
            of.remove("items");
            of.remove("properties");
        }
        let kind = of.get("type").and_then(Value::as_str).unwrap_or("");
        let is_odd = (kind == "array" && !of.contains_key("items")) || (kind == "object" && is_free);
        if is_nullable || is_odd {
            of.remove("type");
        }
        for keyword in ["allOf", "anyOf", "oneOf", "not"] {
            of.remove(keyword);
        }
        demand_no_nulls(of);
    });
    // Only now, as what contains it asks for it.
    super::visit_mut(&mut schema, &mut |of| {
        of.remove("nullable");
    });
    super::describe_identity(&mut schema, true);
    moved(schema, false)
}

/// What may be null isn't required.
fn demand_no_nulls(of: &mut Map<String, Value>) {
    let is_nullable = |of: &Value| of["nullable"] == true;
    if of.get("additionalProperties").is_some_and(is_nullable) {
        of.remove("required");
    }
    let properties = of.get("properties").and_then(Value::as_object);
    let nullable: Vec<String> =
        properties.into_iter().flatten().filter(|(_, of)| is_nullable(of)).map(|(name, _)| name.clone()).collect();
    if let Some(Value::Array(required)) = of.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !nullable.iter().any(|known| known == name)));
        if required.is_empty() {
            of.remove("required");
        }
    }
}

/// A schema of v3 as v2 has it: references lead elsewhere, and a reference has no company. Built-in kinds have a type
/// for what is a number or a text, which custom ones only mark.
fn moved(mut schema: Value, is_built_in: bool) -> Value {
    super::visit_mut(&mut schema, &mut |of| {
        if let Some(Value::Array(all)) = of.get("allOf")
            && let [Value::Object(one)] = all.as_slice()
            && one.contains_key("$ref")
        {
            let mut alone = one.clone();
            alone.extend(of.get("description").map(|text| ("description".to_string(), text.clone())));
            *of = alone;
        }
        for keyword in ["nullable", "anyOf", "oneOf", "not"] {
            of.remove(keyword);
        }
        if let Some(Value::String(target)) = of.get_mut("$ref") {
            *target = target.replace("#/components/schemas/", "#/definitions/");
        }
        if is_built_in && of.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            of.insert("type".into(), "string".into());
            of.insert("format".into(), "int-or-string".into());
        }
    });
    schema
}

/// Writes protobuf messages field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn flag(&mut self, field: u64, value: bool) {
        self.varint(field << 3);
        self.varint(u64::from(value));
    }

    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}

fn protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.message(8, |paths| {
        for (name, item) in document["paths"].as_object().into_iter().flatten() {
            paths.message(2, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |out| path_item(out, item));
            });
        }
    });
    out.message(9, |definitions| named(definitions, &document["definitions"]));
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (field, verb) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        let of = &item[verb];
        if of.is_object() {
            out.message(field, |out| operation(out, of));
        }
    }
}

fn operation(out: &mut Message, of: &Value) {
    for (field, list) in [(6, "produces"), (7, "consumes")] {
        of[list].as_array().into_iter().flatten().for_each(|media| out.text(field, media));
    }
    for parameter in of["parameters"].as_array().into_iter().flatten() {
        let body = parameter["in"] == "body";
        out.message(8, |item| {
            item.message(1, |either| {
                if body {
                    either.message(1, |out| {
                        out.text(2, &parameter["name"]);
                        out.text(3, &parameter["in"]);
                        out.flag(4, true);
                        out.message(5, |schema| write(schema, &parameter["schema"]));
                    });
                } else {
                    either.message(2, |sort| {
                        sort.message(3, |query| {
                            query.text(2, &parameter["in"]);
                            query.text(4, &parameter["name"]);
                            query.text(6, &parameter["type"]);
                        });
                    });
                }
            });
        });
    }
    out.message(9, |responses| {
        for (code, response) in of["responses"].as_object().into_iter().flatten() {
            responses.message(1, |entry| {
                entry.bytes(1, code.as_bytes());
                entry.message(2, |value| {
                    value.message(1, |out| {
                        out.text(1, &response["description"]);
                        out.message(2, |item| item.message(1, |schema| write(schema, &response["schema"])));
                    });
                });
            });
        }
    });
    extensions(out, 13, of);
}

/// `additional_properties` of Definitions and Properties: a name with a schema, each.
fn named(out: &mut Message, schemas: &Value) {
    for (name, of) in schemas.as_object().into_iter().flatten() {
        out.message(1, |entry| {
            entry.bytes(1, name.as_bytes());
            entry.message(2, |schema| write(schema, of));
        });
    }
}

fn write(out: &mut Message, of: &Value) {
    out.text(1, &of["$ref"]);
    out.text(2, &of["format"]);
    out.text(4, &of["description"]);
    for required in of["required"].as_array().into_iter().flatten() {
        out.text(19, required);
    }
    match &of["additionalProperties"] {
        Value::Bool(any) => out.message(21, |item| item.flag(2, *any)),
        Value::Object(_) => out.message(21, |item| item.message(1, |s| write(s, &of["additionalProperties"]))),
        _ => {}
    }
    if of["type"].is_string() {
        out.message(22, |item| item.text(1, &of["type"]));
    }
    if of["items"].is_object() {
        out.message(23, |item| item.message(1, |s| write(s, &of["items"])));
    }
    if of["properties"].is_object() {
        out.message(25, |properties| named(properties, &of["properties"]));
    }
    extensions(out, 31, of);
}

/// `vendor_extension` of any message.
fn extensions(out: &mut Message, field: u64, of: &Value) {
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        out.message(field, |entry| {
            entry.bytes(1, name.as_bytes());
            // JSON is YAML.
            entry.message(2, |any| any.bytes(2, value.to_string().as_bytes()));
        });
    }
}
