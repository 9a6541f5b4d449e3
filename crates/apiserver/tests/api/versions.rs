//! Built-in kinds in an older version.

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::server::Server;

const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

#[tokio::test]
async fn autoscalers_are_written_and_read_in_both_versions() {
    let server = Server::start().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let made = server
        .create(
            V1,
            json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                "spec": {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}}),
        )
        .await;
    assert_eq!((&made["apiVersion"], &made["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)));
    let get = |path: String| {
        let server = &server;
        async move {
            let (code, _, body) = server.get(&path, "application/json").await;
            assert_eq!(code, 200);
            serde_json::from_slice::<Value>(&body).unwrap()
        }
    };
    let new = get(format!("{V2}/a")).await;
    assert_eq!(new["apiVersion"], "autoscaling/v2");
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    // Changed in the newer one, seen in the older one, by get, list and watch.
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}});
    let (code, answer) = server.json("PATCH", &format!("{V2}/a"), &json!({"spec": {"metrics": [metric]}})).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(get(format!("{V1}/a")).await["spec"]["targetCPUUtilizationPercentage"], 70);
    let list = get(V1.into()).await;
    assert_eq!(list["items"][0]["apiVersion"], "autoscaling/v1");
    let request = Request::get(format!("{V1}?watch=1")).body(Bytes::new()).unwrap();
    let mut events = server.send(request).await.into_body();
    let frame = events.frame().await.unwrap().unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(event["object"]["spec"]["targetCPUUtilizationPercentage"], 70, "{event}");
    // What is wrong is told in either.
    let (code, answer) = server.json("PATCH", &format!("{V1}/a"), &json!({"spec": {"maxReplicas": 0}})).await;
    assert_eq!((code.as_u16(), &answer["details"]["causes"][0]["field"]), (422, &json!("spec.maxReplicas")));
    let groups = get("/apis/autoscaling".into()).await;
    let versions: Vec<&str> =
        groups["versions"].as_array().unwrap().iter().filter_map(|v| v["version"].as_str()).collect();
    assert_eq!(versions, ["v2", "v1"]);
    assert_eq!(groups["preferredVersion"]["version"], "v2");
    assert!(get("/apis/autoscaling/v1".into()).await["resources"].as_array().is_some_and(|r| r.len() == 2));
}
