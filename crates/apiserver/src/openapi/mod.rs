//! OpenAPI documents, made on demand from the packed schema and kept for who asks next.

mod documents;
mod making;
pub mod v2;

pub use documents::{Documents, Made};

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use api::{Kind, Verbs, schema};

use crate::KUBERNETES_VERSION;
use crate::aggregator::Aggregator;
use crate::registry::Catalog;

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`: where the documents are. The hash lets clients cache them.
pub fn index(catalog: &Catalog, aggregator: &Aggregator) -> Value {
    let mut paths = Map::new();
    for kind in catalog.kinds() {
        let path = path_of(kind.group, kind.version);
        // Of a custom kind, the schema may change with every definition.
        let changes = if kind.custom { format!("-{}", catalog.generation()) } else { String::new() };
        let hash = format!("{KUBERNETES_VERSION}-{}{changes}", env!("CARGO_PKG_VERSION"));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    for (group, version) in aggregator.relayed() {
        let path = path_of(&group, &version);
        let url = format!("/openapi/v3/{path}?hash=other-{}", aggregator.generation());
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

/// The OpenAPI v3 document of a version of a group; none for one that isn't served.
pub fn document(catalog: &Catalog, group: &str, version: &str) -> Option<Made> {
    let all = catalog.kinds();
    let kinds: Vec<&Kind> = all.into_iter().filter(|k| k.group == group && k.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let (mut types, docs) = schema::raw();
    kinds.iter().for_each(|kind| add_custom(catalog, kind, &mut types));
    let mut schemas = Map::new();
    let mut wanted: BTreeSet<String> = kinds.iter().map(|k| k.schema()).collect();
    while let Some(name) = wanted.pop_first() {
        let Some(of) = types.get(&name).filter(|_| !schemas.contains_key(&name)) else { continue };
        references(of, &mut wanted);
        schemas.insert(name.clone(), with_docs(&name, of, &docs));
    }
    let mut paths = Map::new();
    for kind in &kinds {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        if let Some(Value::Object(of)) = schemas.get_mut(&kind.schema()) {
            of.insert("x-kubernetes-group-version-kind".into(), json!([gvk]));
        }
        add_paths(kind, &gvk, &mut paths);
    }
    let document = json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
                          "paths": paths, "components": {"schemas": schemas}});
    let bytes = crate::json::to_vec(&document);
    Some(Made { bytes, content_type: "application/json", cache_control: "public, max-age=31536000, immutable" })
}

/// Adds the schema of a custom kind to those of the built-in ones.
fn add_custom(catalog: &Catalog, kind: &Kind, types: &mut Map<String, Value>) {
    let definition = catalog.definition(kind);
    if let Some(version) = definition.as_ref().and_then(|d| d.version(kind.version)) {
        let mut of = version.schema();
        describe_identity(&mut of, false);
        types.insert(kind.schema(), of);
    }
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Says in the schema of a custom kind what every resource has, and resources within it have. For v2, resources that may
/// have any field get none, as its readers would refuse all others.
fn describe_identity(root: &mut Value, for_v2: bool) {
    visit_mut(root, &mut |schema| {
        let is_set = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let is_embedded = is_set("x-kubernetes-embedded-resource");
        if is_embedded && !(for_v2 && is_set("x-kubernetes-preserve-unknown-fields")) {
            add_identity(schema);
            let required = schema.entry("required").or_insert_with(|| json!([]));
            for name in ["kind", "apiVersion"] {
                if let Value::Array(names) = required
                    && !names.iter().any(|known| known == name)
                {
                    names.push(name.into());
                }
            }
        }
    });
    if let Value::Object(root) = root {
        add_identity(root);
    }
}

fn add_identity(schema: &mut Map<String, Value>) {
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    let metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    properties["metadata"] = json!({"allOf": [{ "$ref": metadata }], "description": METADATA});
}

/// The schemas directly in a schema: all code that walks through schemas uses it, as properties may have the names
/// of keywords, and what stands under other keywords is no schema.
fn parts_mut(schema: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut parts = Vec::new();
    for (keyword, value) in schema.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(named)) => parts.extend(named.values_mut()),
            ("allOf" | "anyOf" | "oneOf", Value::Array(listed)) => parts.extend(listed.iter_mut()),
            ("items" | "additionalProperties" | "not", value @ Value::Object(_)) => parts.push(value),
            _ => {}
        }
    }
    parts
}

/// Changes a schema and all in it, the inner ones first.
fn visit_mut(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(map) = schema else { return };
    parts_mut(map).into_iter().for_each(|part| visit_mut(part, change));
    change(map);
}

fn references(schema: &Value, found: &mut BTreeSet<String>) {
    let mut schema = schema.clone();
    visit_mut(&mut schema, &mut |of| {
        if let Some(target) = of.get("$ref").and_then(Value::as_str) {
            found.insert(target.trim_start_matches("#/components/schemas/").into());
        }
    });
}

fn with_docs(name: &str, of: &Value, docs: &Map<String, Value>) -> Value {
    let mut schema = of.clone();
    if let Some(text) = docs.get(name) {
        schema["description"] = text.clone();
    }
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for (field, schema) in fields {
            if let Some(text) = docs.get(&format!("{name}.{field}")) {
                schema["description"] = text.clone();
            }
        }
    }
    schema
}

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
}

/// The operations that clients look for before they use a parameter.
fn add_paths(kind: &Kind, gvk: &Value, paths: &mut Map<String, Value>) {
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{}{scope}/{}", path_of(kind.group, kind.version), kind.plural());
    let reference = json!({"$ref": format!("#/components/schemas/{}", kind.schema())});
    let answer = json!({"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}});
    let write = [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")];
    let operation = |action: &str, parameters: Value| {
        json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
               "parameters": parameters, "responses": answer})
    };
    let with_body = |action: &str, media: &[&str]| {
        let mut operation = operation(action, json!(write));
        for media in media {
            operation["requestBody"]["content"][media]["schema"] = reference.clone();
        }
        operation
    };
    let list = operation("list", json!([parameter("labelSelector"), parameter("fieldSelector")]));
    let post = with_body("post", &["application/json"]);
    let mut on_collection = match kind.verbs {
        Verbs::All => json!({"get": list, "post": post}),
        Verbs::Create => {
            paths.insert(collection, json!({"post": post}));
            return;
        }
        Verbs::Read => {
            paths.insert(format!("{collection}/{{name}}"), json!({"get": operation("get", json!([]))}));
            paths.insert(collection, json!({"get": list}));
            return;
        }
    };
    if kind.strategy.deletion.by_collection {
        on_collection["delete"] = operation("deletecollection", json!([parameter("dryRun")]));
    }
    let mut patches =
        vec!["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
    if !kind.custom {
        patches.push("application/strategic-merge-patch+json");
    }
    let on_one = json!({
        "get": operation("get", json!([])),
        "put": with_body("put", &["application/json"]),
        "patch": with_body("patch", &patches),
        "delete": operation("delete", json!([parameter("dryRun")])),
    });
    paths.insert(format!("{collection}/{{name}}"), on_one);
    paths.insert(collection, on_collection);
}

#[cfg(test)]
mod tests;
