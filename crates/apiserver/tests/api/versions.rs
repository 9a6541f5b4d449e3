//! Built-in kinds in an older version.

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::server::Server;

const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

#[tokio::test]
async fn events_are_the_same_objects_in_both_groups() {
    const CORE: &str = "/api/v1/namespaces/default/events";
    const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
    let server = Server::start().await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2024-01-01T00:00:00.000001Z", "type": "Normal", "reason": "Started", "action": "Starting", "note": "told",
        "reportingController": "example.com/c", "reportingInstance": "c-1",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let made = server.create(NEWER, event.clone()).await;
    assert_eq!((&made["note"], &made["apiVersion"]), (&json!("told"), &json!("events.k8s.io/v1")));
    let core = server.read(&format!("{CORE}/e")).await;
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("told"), &json!("p")), "{core}");
    assert_eq!(core["reportingComponent"], "example.com/c");
    let old = json!({"metadata": {"name": "old"}, "involvedObject": {"kind": "Node", "name": "n"}, "message": "m", "count": 3,
        "source": {"component": "kubelet"}});
    server.create(CORE, old).await;
    let list = server.read(NEWER).await;
    let notes: Vec<&str> = list["items"].as_array().unwrap().iter().filter_map(|e| e["note"].as_str()).collect();
    assert_eq!((&list["kind"], notes), (&json!("EventList"), vec!["told", "m"]));
    assert_eq!(list["items"][1]["deprecatedCount"], 3);
    for (query, want) in [
        ("regarding.kind=Pod", vec!["e"]),
        ("regarding.name=n", vec!["old"]),
        ("reportingController=example.com/c", vec!["e"]),
        ("reason!=Started", vec!["old"]),
    ] {
        let list = server.read(&format!("{NEWER}?fieldSelector={query}")).await;
        let names: Vec<&str> =
            list["items"].as_array().unwrap().iter().filter_map(|e| e["metadata"]["name"].as_str()).collect();
        assert_eq!(names, want, "{query}");
    }
    let (code, _, _) = server.get(&format!("{NEWER}?fieldSelector=source=kubelet"), "application/json").await;
    assert_eq!(code, 400);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let row = |path: &str| {
        let (server, path) = (&server, path.to_string());
        async move {
            let (_, _, body) = server.get(&path, table).await;
            serde_json::from_slice::<Value>(&body).unwrap()["rows"][0]["cells"].clone()
        }
    };
    assert_eq!(row(CORE).await, row(NEWER).await);
    // A series goes on; all else stays.
    let series = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:01:00.000000Z"}});
    let (code, told) = server.json("PATCH", &format!("{NEWER}/e"), &series).await;
    assert_eq!((code.as_u16(), &told["series"]["count"]), (200, &json!(2)), "{told}");
    let (code, refused) = server.json("PATCH", &format!("{NEWER}/e"), &json!({"note": "else"})).await;
    assert_eq!((code.as_u16(), &refused["details"]["causes"][0]["field"]), (422, &json!("message")), "{refused}");
    let mut untimed = event;
    untimed["metadata"]["name"] = "f".into();
    untimed.as_object_mut().unwrap().remove("eventTime");
    assert_eq!(server.json("POST", NEWER, &untimed).await.0, 422);
    let (code, _, body) = server.get(&format!("{NEWER}/e"), api::protobuf::MEDIA_TYPE).await;
    assert_eq!((code.as_u16(), api::protobuf::decode(&body).unwrap()["note"].clone()), (200, json!("told")));
    let request = Request::get(format!("{NEWER}?watch=1&fieldSelector=regarding.name=p")).body(Bytes::new()).unwrap();
    let mut events = server.send(request).await.into_body();
    let frame = events.frame().await.unwrap().unwrap().into_data().unwrap();
    let first: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(
        (&first["object"]["note"], &first["object"]["apiVersion"]),
        (&json!("told"), &json!("events.k8s.io/v1"))
    );
    assert_eq!(server.json("DELETE", NEWER, &Value::Null).await.0, 200);
    assert!(server.read(CORE).await["items"].as_array().is_some_and(Vec::is_empty));
}

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
