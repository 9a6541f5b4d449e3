//! Priority and fairness: seats, queues, and what clients are told.

use apiserver::{Body, Peer, User};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinHandle;

use crate::server::Server;

const FLOWS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A level of one share for the users of group `name`, which borrows nothing; returns how many seats it has.
async fn level(server: &Server, name: &str, response: Value) -> usize {
    server
        .create(
            &format!("{FLOWS}/prioritylevelconfigurations"),
            json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
                "metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
                    "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}}}),
        )
        .await;
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": name}}], "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]});
    server
        .create(
            &format!("{FLOWS}/flowschemas"),
            json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
                "spec": {"matchingPrecedence": 10, "priorityLevelConfiguration": {"name": name},
                    "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}}),
        )
        .await;
    let (_, _, metrics) = server.get("/metrics", "*/*").await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    let line = format!("apiserver_flowcontrol_nominal_limit_seats{{priority_level={name:?}}} ");
    // The schemas are read again when the next request comes.
    let found = metrics.lines().find_map(|l| l.strip_prefix(&line)).map(|n| n.parse().unwrap());
    found.unwrap_or_else(|| panic!("{metrics}"))
}

/// Requests whose bodies never end: each holds a seat until it is aborted.
fn endless(server: &Server, user: &User, count: usize) -> Vec<JoinHandle<Response<Body>>> {
    let one = |_| {
        let body = StreamBody::new(futures::stream::pending::<Result<_, std::io::Error>>().boxed());
        let request = Request::post(MAPS).header("content-type", "application/json");
        let request = request.body(body.map_err(Into::into).boxed_unsync()).unwrap();
        tokio::spawn(server.api.handle(request, Peer::Component(Arc::new(user.clone()))))
    };
    (0..count).map(one).collect()
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn list() -> Request<Bytes> {
    Request::get(MAPS).body(Bytes::new()).unwrap()
}

/// Lets service accounts of the tests' users read and write config maps.
async fn allow(server: &Server, group: &str) {
    server
        .create(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": group}, "subjects": [{"kind": "Group", "name": group}],
                "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}}),
        )
        .await;
}

#[tokio::test]
async fn a_full_level_refuses_its_own_requests_and_nobody_elses() {
    let server = Server::start().await;
    let seats = level(&server, "tiny", json!({"type": "Reject"})).await;
    allow(&server, "tiny").await;
    let greedy = User::new("greedy", &["tiny", "system:authenticated"]);
    let hanging = endless(&server, &greedy, seats);
    settle().await;
    let answer = server.send_as(&greedy, list()).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    // The administrator is exempt, and others have seats of their own.
    assert_eq!(server.send(list()).await.status(), 200);
    let other = User::new("other", &["system:authenticated"]);
    let answer = server.send_as(&other, list()).await;
    assert_eq!(answer.status(), 403, "no role, but its turn");
    assert!(answer.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    hanging.iter().for_each(JoinHandle::abort);
    settle().await;
    assert_eq!(server.send_as(&greedy, list()).await.status(), 200);
    let (_, _, metrics) = server.get("/metrics", "*/*").await;
    let line = r#"rejected_requests_total{flow_schema="tiny",priority_level="tiny",reason="queue-full"} 1"#;
    assert!(String::from_utf8_lossy(&metrics).contains(line));
}

#[tokio::test]
async fn a_request_waits_for_its_turn_beside_a_greedy_client() {
    let server = Server::start().await;
    let queuing = json!({"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}});
    let seats = level(&server, "shared", queuing).await;
    allow(&server, "shared").await;
    let greedy = User::new("greedy", &["shared", "system:authenticated"]);
    let modest = User::new("modest", &["shared", "system:authenticated"]);
    // All seats taken, and a hundred more in line.
    let hanging = endless(&server, &greedy, seats + 100);
    settle().await;
    let (api, peer) = (server.api.clone(), Peer::Component(Arc::new(modest)));
    let request = list().map(|b| http_body_util::Full::new(b).map_err(|never| match never {}).boxed_unsync());
    let waiting = tokio::spawn(api.handle(request, peer));
    settle().await;
    assert!(!waiting.is_finished(), "there is no seat yet");
    // One seat becomes free. It is the modest one's, though a hundred stood in line before.
    hanging[0].abort();
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert!(!hanging[1].is_finished());
}

#[tokio::test]
async fn a_schema_says_when_its_level_is_missing() {
    let server = Server::start().await;
    let path = format!("{FLOWS}/flowschemas");
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "lost"}, "spec": {"priorityLevelConfiguration": {"name": "nowhere"}}});
    let made = server.create(&path, schema).await;
    assert_eq!(made["spec"]["matchingPrecedence"], 1000);
    let watch = format!("{path}?watch=1&fieldSelector=metadata.name%3Dlost");
    let mut events = server.send(Request::get(watch).body(Bytes::new()).unwrap()).await.into_body();
    loop {
        let frame = events.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        let condition = &event["object"]["status"]["conditions"][0];
        if !condition.is_null() {
            assert_eq!((&condition["type"], &condition["status"]), (&json!("Dangling"), &json!("True")));
            break;
        }
    }
    let (_, _, body) = server.get(&format!("{path}/exempt"), "application/json").await;
    let exempt: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(exempt["spec"]["matchingPrecedence"], 1);
}
