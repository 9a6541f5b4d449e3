//! Services in clusters of one family of addresses and of both.

use http::StatusCode;
use serde_json::{Value, json};

use crate::server::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut whole = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole})
}

/// The families and how many addresses a service has, or why it was refused.
fn told(code: StatusCode, answer: &Value) -> String {
    let spec = &answer["spec"];
    match code.as_u16() {
        200 | 201 => {
            let count = spec["clusterIPs"].as_array().map_or(0, Vec::len);
            assert_eq!(spec["clusterIP"], spec["clusterIPs"][0], "{spec}");
            format!("{} {} {count}", spec["ipFamilyPolicy"], spec["ipFamilies"]).replace('"', "")
        }
        _ => answer["message"].as_str().unwrap_or("").to_string(),
    }
}

#[tokio::test]
async fn services_get_an_address_of_each_family_they_ask_for() {
    let server = Server::start_with(|config| {
        config.service_cidr = "10.96.0.0/16,fd96::/112".parse().unwrap();
        config.cluster_cidr = "10.42.0.0/16,fd42::/56".parse().unwrap();
    })
    .await;
    for (name, spec, expected) in [
        ("plain", json!({}), "SingleStack [IPv4] 1"),
        ("six", json!({"ipFamilies": ["IPv6"]}), "SingleStack [IPv6] 1"),
        ("prefers", json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack [IPv4,IPv6] 2"),
        (
            "needs",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            "RequireDualStack [IPv6,IPv4] 2",
        ),
        ("own", json!({"clusterIP": "fd96::99"}), "SingleStack [IPv6] 1"),
        ("taken", json!({"clusterIP": "fd96::99"}), "provided IP is already allocated"),
        ("strange", json!({"clusterIP": "fd97::1"}), "the provided IP is not in the valid range"),
        (
            "half",
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple 'ipFamilies'",
        ),
        (
            "twice",
            json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
            "spec.ipFamilies[1]: Duplicate value",
        ),
        (
            "crossed",
            json!({"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"]}),
            "expected an IPv6 value",
        ),
        (
            "apart",
            json!({"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.78"]}),
            "first value must match `clusterIP`",
        ),
        ("headless", json!({"clusterIP": "None"}), "SingleStack [IPv4] 1"),
        ("hand", json!({"clusterIP": "None", "selector": null}), "RequireDualStack [IPv4,IPv6] 1"),
    ] {
        let (code, answer) = server.json("POST", SERVICES, &service(name, spec)).await;
        let told = told(code, &answer);
        assert!(told.contains(expected), "{name}: {told}");
    }
    // A second family comes and goes with the policy; the first stays.
    let path = format!("{SERVICES}/plain");
    let patch = async |spec: Value| server.patch(&path, "merge-patch+json", &json!({ "spec": spec })).await;
    let first = server.read(&path).await["spec"]["clusterIP"].clone();
    let (code, answer) = patch(json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(told(code, &answer), "RequireDualStack [IPv4,IPv6] 2");
    let second = answer["spec"]["clusterIPs"][1].clone();
    let (code, answer) = patch(json!({"clusterIPs": [first], "ipFamilies": ["IPv4"]})).await;
    assert!(code.as_u16() == 422 && told(code, &answer).contains("SingleStack"), "{answer}");
    let (code, answer) = patch(json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!((told(code, &answer).as_str(), &answer["spec"]["clusterIP"]), ("SingleStack [IPv4] 1", &first));
    let again = service("again", json!({"clusterIP": second, "ipFamilies": ["IPv6"]}));
    assert_eq!(server.json("POST", SERVICES, &again).await.0.as_u16(), 201, "what was given back is free");
    let (code, answer) = patch(json!({"ipFamilies": ["IPv6"]})).await;
    assert!(code.as_u16() == 422 && told(code, &answer).contains("may not change once set"), "{answer}");
}

#[tokio::test]
async fn a_cluster_of_one_family_says_so() {
    let server = Server::start().await;
    for (name, spec, expected) in [
        ("prefers", json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack [IPv4] 1"),
        (
            "needs",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "this cluster is not configured for dual-stack services",
        ),
        ("six", json!({"ipFamilies": ["IPv6"]}), "not configured on this cluster"),
    ] {
        let (code, answer) = server.json("POST", SERVICES, &service(name, spec)).await;
        let told = told(code, &answer);
        assert!(told.contains(expected), "{name}: {told}");
    }
}
