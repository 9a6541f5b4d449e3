//! Which versions of a kind admission policies and their bindings are about (`matchPolicy`).

use serde_json::{Value, json};

use crate::policies::{GROUP, define};
use crate::server::Server;

#[tokio::test]
async fn policies_are_about_all_versions_of_a_kind_unless_they_say_otherwise() {
    let server = Server::start().await;
    let of = |version: &str, policy: &str| {
        json!({"matchConstraints": {"matchPolicy": policy, "resourceRules": [{"apiGroups": ["autoscaling"], "apiVersions": [version],
            "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]}})
    };
    let with = |mut spec: Value, extra: Value| {
        apimachinery::patch::merge_patch(&mut spec, &extra);
        spec
    };
    let deny = json!({"validationActions": ["Deny"]});
    // The field is that of v1, and so is the object that the expression sees, whichever version was sent.
    let processor = json!({"validations": [{"expression": "!has(object.spec.targetCPUUtilizationPercentage) || object.spec.targetCPUUtilizationPercentage < 50",
        "messageExpression": "request.kind.version + ' of ' + request.requestKind.version"}]});
    define(&server, false, "all", with(of("v1", "Equivalent"), processor.clone()), deny.clone()).await;
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let scaler = |name: &str, percent: u32| {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "metrics": [metric]}})
    };
    let (code, answer) = server.json("POST", &path("v2"), &scaler("a", 80)).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().ends_with("v1 of v2"), "{code} {answer}");
    assert_eq!(server.json("POST", &path("v2"), &scaler("b", 20)).await.0, 201);
    // What changes an object of another version changes that which was sent.
    let minimum = json!({"mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{spec: Object.spec{targetCPUUtilizationPercentage: 30}}"}}],
        "reinvocationPolicy": "Never", "failurePolicy": "Fail"});
    define(&server, true, "mends", with(of("v1", "Equivalent"), minimum), json!({})).await;
    let made = server.create(&path("v2"), scaler("c", 80)).await;
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 30);
    let plural = "validatingadmissionpolicies";
    assert_eq!(server.json("DELETE", &format!("{GROUP}/{plural}/all"), &json!({})).await.0, 200);
    assert_eq!(server.json("DELETE", &format!("{GROUP}/mutatingadmissionpolicies/mends"), &json!({})).await.0, 200);
    define(&server, false, "one", with(of("v1", "Exact"), processor.clone()), deny.clone()).await;
    assert_eq!(server.json("POST", &path("v2"), &scaler("d", 80)).await.0, 201);
    // A binding asks for versions by the same rule.
    let narrowed = with(deny, json!({"matchResources": with(of("v1", "Equivalent"), json!({}))["matchConstraints"]}));
    define(
        &server,
        false,
        "bound",
        with(of("v2", "Exact"), json!({"validations": [{"expression": "false"}]})),
        narrowed,
    )
    .await;
    assert_eq!(server.json("POST", &path("v2"), &scaler("e", 20)).await.0, 422);
}
