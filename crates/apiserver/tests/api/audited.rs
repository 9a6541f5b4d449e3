//! What the audit log tells of bodies, and what it never waits for.

use std::sync::Arc;
use std::time::Duration;

use apiserver::audit::{Audit, Log, Policy};
use apiserver::{Body, Peer};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};

use crate::server::{Server, read};

async fn audited(folder: &std::path::Path) -> Server {
    let policy =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: RequestResponse}]";
    let policy = Policy::read(policy).unwrap();
    let log = Log::open(folder.join("audit.log").to_str().unwrap(), 0, 0, 0).unwrap();
    Server::start_with(|config| config.audit = Some(Arc::new(Audit { policy, log }))).await
}

/// What the log has of the request with this path.
fn told(folder: &std::path::Path, path: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder.join("audit.log")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|event| event["requestURI"] == path)
}

#[tokio::test]
async fn bodies_of_who_is_let_in_are_told_and_those_of_others_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = audited(folder.path()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    server.create(path, json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await;

    // Nobody sends a body that never ends.
    let endless = futures::stream::pending::<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>();
    let body: Body = StreamBody::new(endless).boxed_unsync();
    let request = Request::post("/api/v1/namespaces/default/secrets").header("content-type", "application/json");
    let answer = server.api.handle(request.body(body).unwrap(), Peer::Remote(None));
    let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.expect("it isn't waited for");
    assert_eq!(read(answer).await.0, 403);

    // The log is written by a thread of its own.
    let refused = loop {
        match told(folder.path(), "/api/v1/namespaces/default/secrets") {
            Some(event) => break event,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(refused["requestObject"].is_null() && refused["responseStatus"]["code"] == 403, "{refused}");
    let made = told(folder.path(), path).unwrap();
    assert_eq!(
        (&made["requestObject"]["data"], &made["responseObject"]["data"]),
        (&json!({"a": "b"}), &json!({"a": "b"}))
    );
}
