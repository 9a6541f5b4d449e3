//! Definitions of kinds that are custom resources, as upstream's are, so that products that bring definitions of these kinds along find
//! what they expect.

use informer::Selection;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::toolkit::{Context, ignore};

/// Makes what isn't there, and waits until it is served.
pub async fn ensure(context: &Context, definitions: impl IntoIterator<Item = Value>) {
    let api: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    for definition in definitions {
        let Ok(definition) = serde_json::from_value::<CustomResourceDefinition>(definition) else { continue };
        let name = definition.metadata.name.clone().unwrap_or_default();
        if let Err(error) = ignore(api.create(&PostParams::default(), &definition).await, &[409]) {
            tracing::warn!(%error, name, "failed to create a CustomResourceDefinition");
        }
        let selection = Selection::named(api.resource_url(), &name);
        informer::wait_until(context.client.clone(), selection, |definition| {
            is_established(&definition?).then_some(())
        })
        .await;
    }
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True")
}

pub fn text() -> Value {
    json!({"type": "string"})
}

pub fn texts() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

pub fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

pub fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// A list whose items have a key.
pub fn keyed_list(items: Value, key: &str) -> Value {
    json!({"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]})
}

pub fn one_of(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

/// A field that keeps what it was made with.
pub fn fixed(mut schema: Value, what: &str) -> Value {
    schema["x-kubernetes-validations"] =
        json!([{"rule": "self == oldSelf", "message": format!("{what} is immutable")}]);
    schema
}

/// Exactly one of two fields.
pub fn either(mut schema: Value, [a, b]: [&str; 2]) -> Value {
    schema["x-kubernetes-validations"] = json!([{
        "rule": format!("has(self.{a}) != has(self.{b})"), "message": format!("exactly one of {a} and {b} must be set")}]);
    schema
}

pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    /// Where upstream agreed on a group under `k8s.io`.
    pub approved: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub short: &'static [&'static str],
    pub namespaced: bool,
    /// The properties beside `metadata`, and those that must be there.
    pub properties: Value,
    pub required: &'static [&'static str],
    /// Name, type and path.
    pub columns: &'static [(&'static str, &'static str, &'static str)],
}

pub fn definition(kind: Kind) -> Value {
    let (singular, group) = (kind.kind.to_ascii_lowercase(), kind.group);
    let columns = kind.columns.iter().chain(&[("Age", "date", ".metadata.creationTimestamp")]);
    let columns: Vec<Value> = columns.map(|(n, t, p)| json!({"name": n, "type": t, "jsonPath": p})).collect();
    let has_status = !kind.properties["status"].is_null();
    let mut properties = kind.properties;
    properties["apiVersion"] = text();
    properties["kind"] = text();
    properties["metadata"] = json!({"type": "object"});
    json!({
        "metadata": {"name": format!("{}.{group}", kind.plural), "annotations": {
            "api-approved.kubernetes.io": kind.approved}},
        "spec": {"group": group, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "names": {"kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
                      "singular": singular, "shortNames": kind.short},
            "versions": [{"name": kind.version, "served": true, "storage": true,
                "subresources": if has_status { json!({"status": {}}) } else { Value::Null },
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": object(properties, kind.required)}}]}})
}
