//! What admission policies are told of their expressions.

use serde_json::{Value, json};

use crate::cluster::Cluster;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn policy(name: &str, group: &str, resource: &str, expression: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": [resource]}]},
        "validations": [{"expression": expression}]}})
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_fields_that_are_not_there() {
    let cluster = Cluster::start(0).await;
    let judged = |policy: &Value| {
        let generation = &policy["metadata"]["generation"];
        policy["status"]["typeChecking"].is_object() && policy["status"]["observedGeneration"] == *generation
    };
    let warnings = |policy: &Value| policy["status"]["typeChecking"]["expressionWarnings"].clone();
    cluster.post(POLICIES, policy("good", "apps", "deployments", "object.spec.replicas > 1")).await;
    let good = cluster.until(&format!("{POLICIES}/good"), judged).await;
    assert!(warnings(&good).is_null(), "{good}");
    cluster.post(POLICIES, policy("bad", "apps", "deployments", "object.spec.replicas > '1'")).await;
    let bad = cluster.until(&format!("{POLICIES}/bad"), judged).await;
    assert_eq!(warnings(&bad)[0]["fieldRef"], "spec.validations[0].expression");
    let mended = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    cluster.patch(&format!("{POLICIES}/bad"), mended).await;
    cluster.until(&format!("{POLICIES}/bad"), |bad| judged(bad) && warnings(bad).is_null()).await;
    // A kind may come, and change, after the policy.
    cluster.post(POLICIES, policy("early", "example.com", "widgets", "object.spec.size > 1")).await;
    let early = cluster.until(&format!("{POLICIES}/early"), judged).await;
    assert!(warnings(&early).is_null(), "{early}");
    let fields = |of: Value| json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": of}}}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": fields(json!({"size": {"type": "string"}}))}]}});
    cluster.post(DEFINITIONS, definition).await;
    let early = cluster.until(&format!("{POLICIES}/early"), |early| !warnings(early).is_null()).await;
    assert!(
        warnings(&early)[0]["warning"].as_str().unwrap().starts_with("example.com/v1, Kind=Widget: ERROR"),
        "{early}"
    );
    let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": fields(json!({"size": {"type": "integer"}}))}]);
    cluster.patch(&format!("{DEFINITIONS}/widgets.example.com"), json!({"spec": {"versions": versions}})).await;
    cluster.until(&format!("{POLICIES}/early"), |early| judged(early) && warnings(early).is_null()).await;
}
