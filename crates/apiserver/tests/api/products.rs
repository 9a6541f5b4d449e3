//! Definitions of the shapes that operators publish, and what is done with them: applied twice, filled with an object, replaced by the next
//! version of the product, and applied twice again. What is applied again changes nothing, and what was stored stays writable.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Server, read};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

struct Product {
    plural: &'static str,
    /// The schema of the spec, what the next version makes of it, and an object of the first one.
    spec: Value,
    next: Value,
    object: Value,
}

fn product(plural: &'static str, spec: Value, next: Value, object: Value) -> Product {
    Product { plural, spec: json!({"type": "object", "properties": spec}), next: json!({"properties": next}), object }
}

fn products() -> Vec<Product> {
    let text = || json!({"type": "string"});
    let rule = |rule: &str, message: &str| json!([{"rule": rule, "message": message}]);
    vec![
        // Groups of rules, of which nobody says how many there may be.
        product(
            "alerts",
            json!({"groups": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": text(), "rules": {"type": "array",
                    "items": {"type": "object", "properties": {"alert": text(), "record": text()},
                        "x-kubernetes-validations": rule("has(self.alert) != has(self.record)", "one of both")}}}}}}),
            json!({"groups": {"items": {"properties": {"name": {"maxLength": 3}, "every": {"type": "string", "format": "duration"}}}}}),
            json!({"groups": [{"name": "disks", "rules": [{"alert": "full"}]}, {"name": "net", "rules": []}]}),
        ),
        // Requirements of nodes, with keys that are kept for others.
        product(
            "pools",
            json!({"labels": {"type": "object", "maxProperties": 100, "additionalProperties": {"type": "string", "maxLength": 63},
                    "x-kubernetes-validations": rule("self.all(k, !k.startsWith('kubernetes.io/'))", "kept for others")},
                "weight": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 100}}),
            json!({"weight": {"maximum": 50}, "limit": {"x-kubernetes-int-or-string": true, "pattern": "^[0-9]+(Mi|Gi)?$",
                "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
            json!({"labels": {"tier": "a"}, "weight": 80}),
        ),
        // A pod's template, of which the definition knows little, and fields that are words of the language.
        product(
            "runs",
            json!({"namespace": {"type": "string", "maxLength": 63}, "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "x-kubernetes-preserve-unknown-fields": true},
                "policy": {"type": "object", "default": {}, "properties": {"restarts": {"type": "integer", "default": 3}}}}),
            json!({"policy": {"properties": {"mode": {"type": "string", "enum": ["All", "Any"], "default": "All"}}},
                "namespace": {"x-kubernetes-validations": rule("self == oldSelf", "it can't be moved")}}),
            json!({"namespace": "shop", "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"any": 1}}}),
        ),
        // Where a secret comes from: one of several.
        product(
            "stores",
            json!({"from": {"type": "object", "properties": {"vault": {"type": "object", "properties": {"url": text()}}, "file": text()},
                "oneOf": [{"required": ["vault"]}, {"required": ["file"]}]}, "free": {"x-kubernetes-preserve-unknown-fields": true}}),
            json!({"from": {"properties": {"vault": {"required": ["url"]}}}, "keys": {"type": "array", "x-kubernetes-list-type": "set",
                "items": {"type": "string"}}}),
            json!({"from": {"vault": {}}, "free": {"a": [1, {"b": null}]}}),
        ),
    ]
}

fn definition(product: &Product, spec: &Value) -> Value {
    let (plural, kind) = (product.plural, format!("{}x", product.plural.to_uppercase()));
    let conditions = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "required": ["type", "status"], "properties": {"type": {"type": "string"}, "status": {"type": "string"},
            "lastTransitionTime": {"type": "string", "format": "date-time"}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.products.example.com")},
        "spec": {"group": "products.example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
                    "status": {"type": "object", "properties": {"conditions": conditions}}}}}}]}})
}

/// Applies an object as a chart is; returns the version in which it is then.
async fn apply(server: &Server, collection: &str, object: &Value) -> String {
    let uri = format!(
        "{collection}/{}?fieldManager=chart&fieldValidation=Strict",
        object["metadata"]["name"].as_str().unwrap()
    );
    let request = Request::patch(uri).header("content-type", "application/apply-patch+yaml");
    let (code, _, bytes) = read(server.send(request.body(Bytes::from(object.to_string())).unwrap()).await).await;
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert!(matches!(code.as_u16(), 200 | 201), "{answer}");
    answer["metadata"]["resourceVersion"].as_str().unwrap().to_string()
}

async fn apply_twice(server: &Server, collection: &str, object: &Value) {
    let first = apply(server, collection, object).await;
    assert_eq!(apply(server, collection, object).await, first, "the same again is no change: {object}");
}

#[tokio::test]
async fn definitions_of_products_are_applied_and_replaced_and_their_objects_stay_writable() {
    let server = Server::start().await;
    for product in products() {
        apply_twice(&server, DEFINITIONS, &definition(&product, &product.spec)).await;
        let objects = format!("/apis/products.example.com/v1/namespaces/default/{}", product.plural);
        let kind = format!("{}x", product.plural.to_uppercase());
        let object = json!({"apiVersion": "products.example.com/v1", "kind": kind, "metadata": {"name": "a"}, "spec": product.object});
        apply_twice(&server, &objects, &object).await;
        let mut next = product.spec.clone();
        apimachinery::patch::merge_patch(&mut next, &product.next);
        apply_twice(&server, DEFINITIONS, &definition(&product, &next)).await;
        // The next version may be stricter than what is stored.
        apply_twice(&server, &objects, &object).await;
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let (code, answer) = server.json("PATCH", &format!("{objects}/a"), &label).await;
        assert_eq!(code, 200, "{answer}");
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let (code, answer) = server.json("PATCH", &format!("{objects}/a/status"), &status).await;
        assert_eq!(code, 200, "{answer}");
        let mut new = object.clone();
        new["metadata"]["name"] = "new".into();
        let (code, answer) = server.json("POST", &objects, &new).await;
        let is_stricter = product.plural != "runs";
        assert_eq!(code == 422, is_stricter, "what is new keeps to the new version: {answer}");
    }
}

#[tokio::test]
async fn a_status_without_a_subresource_is_a_part_of_its_object_like_any_other() {
    let server = Server::start().await;
    let product = &products()[2];
    let mut plain = definition(product, &product.spec);
    plain["spec"]["versions"][0]["subresources"] = json!({});
    server.create(DEFINITIONS, plain).await;
    let objects = format!("/apis/products.example.com/v1/namespaces/default/{}", product.plural);
    let kind = format!("{}x", product.plural.to_uppercase());
    let object = json!({"apiVersion": "products.example.com/v1", "kind": kind, "metadata": {"name": "a"},
        "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    assert_eq!(server.create(&objects, object).await["status"]["conditions"][0]["status"], "False");
    for (change, generation) in [
        (json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), 2),
        (json!({"metadata": {"labels": {"a": "b"}}}), 2),
        (json!({"spec": {"namespace": "x"}}), 3),
    ] {
        let (_, answer) = server.json("PATCH", &format!("{objects}/a"), &change).await;
        assert_eq!(answer["metadata"]["generation"], generation, "{answer}");
    }
}
