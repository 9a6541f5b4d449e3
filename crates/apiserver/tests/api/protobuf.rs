//! Answers in protobuf are the same objects as those in JSON.

use api::protobuf::{MEDIA_TYPE, decode};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::server::Server;

/// client-go's Accept header.
const ACCEPT: &str = "application/vnd.kubernetes.protobuf,application/json";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "resources": {"requests": {"cpu": "250m"}}, "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "web"}}}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}}]}})
}

#[tokio::test]
async fn objects_and_lists_say_the_same_in_protobuf() {
    let server = Server::start().await;
    server.create_account().await;
    server.create("/api/v1/namespaces/default/pods", pod("a")).await;
    server.create("/api/v1/namespaces/default/pods", pod("b")).await;
    for path in ["/api/v1/namespaces/default/pods/a", "/api/v1/namespaces/default", "/api/v1/services"] {
        let (_, json_type, as_json) = server.get(path, "application/json").await;
        let (_, media, bytes) = server.get(path, ACCEPT).await;
        assert_eq!((json_type.as_str(), media.as_str()), ("application/json", MEDIA_TYPE), "{path}");
        if path.ends_with("services") {
            continue;
        }
        assert_eq!(decode(&bytes).unwrap(), serde_json::from_slice::<Value>(&as_json).unwrap(), "{path}");
    }
    // A list is its metadata and its items, each as it is alone.
    let (_, media, list) = server.get("/api/v1/namespaces/default/pods?limit=1", ACCEPT).await;
    assert_eq!(media, MEDIA_TYPE);
    let (_, _, one) = server.get("/api/v1/namespaces/default/pods/a", ACCEPT).await;
    let kind = api::kinds::PODS;
    let (message, _) = api::protobuf::object_message(kind, &decode(&one).unwrap());
    assert!(list.starts_with(b"k8s\0") && list.windows(message.len()).any(|w| w == message), "{list:?}");

    // What is written in protobuf is read as it was meant.
    let (message, complete) = api::protobuf::object_message(kind, &pod("c"));
    assert!(complete);
    let request = Request::post("/api/v1/namespaces/default/pods").header("content-type", MEDIA_TYPE);
    let body = Bytes::from(api::protobuf::object(kind, &message));
    let answer = server.send(request.body(body).unwrap()).await;
    assert_eq!(answer.status(), 201);
    let (_, _, made) = server.get("/api/v1/namespaces/default/pods/c", "application/json").await;
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(made["spec"]["volumes"][0]["configMap"]["name"], "m");
    assert_eq!(made["spec"]["containers"][0]["env"][0]["valueFrom"]["configMapKeyRef"]["name"], "m");
    assert_eq!(made["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], "web");

    // Tables and custom resources stay JSON, as the client's second choice.
    let table =
        "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, media, bytes) = server.get("/api/v1/namespaces/default/pods", table).await;
    assert_eq!(media, "application/json");
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["kind"], "Table");
}

#[tokio::test]
async fn watches_speak_protobuf() {
    let server = Server::start().await;
    server
        .create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))
        .await;
    let path = "/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da";
    let request = Request::get(path).header("accept", ACCEPT).body(Bytes::new()).unwrap();
    let response = server.send(request).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut body = response.into_body();
    let mut frames = Vec::new();
    while frames.len() < 2 {
        frames.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    for (frame, what) in frames.iter().zip(["ADDED", "BOOKMARK"]) {
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 4);
        let at = frame.windows(4).position(|w| w == b"k8s\0").unwrap();
        assert!(frame[..at].windows(what.len()).any(|w| w == what.as_bytes()), "{what}");
        let object = decode(&frame[at..]).unwrap();
        assert_eq!(object["kind"], "ConfigMap");
        match what {
            "ADDED" => assert_eq!(object["data"]["k"], "v"),
            _ => assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true"),
        }
    }
}
