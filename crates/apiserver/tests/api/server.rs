//! A server for tests.

use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, Peer, User};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tempfile::TempDir;

pub struct Server {
    pub api: Arc<ApiServer>,
    pub store: Arc<dyn store::Store>,
    pub authority: Arc<pki::Authority>,
    user: User,
    _folder: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// With the database that users have, which remembers the past.
    pub async fn start_on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store::SqliteStore::open(&folder.path().join("db"), store::sqlite::Options::default()).unwrap();
        Self::start_in(folder, Arc::new(store), |_| ()).await
    }

    pub async fn start_on(store: Arc<dyn store::Store>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), store, |_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Arc::new(store::MemoryStore::default()), change).await
    }

    async fn start_in(folder: TempDir, store: Arc<dyn store::Store>, change: impl FnOnce(&mut Config)) -> Self {
        let authority = Arc::new(pki::Authority::load_or_create(folder.path(), "ca").unwrap());
        let front = pki::Authority::load_or_create(folder.path(), "front-proxy-ca").unwrap();
        let usages = [pki::Usage::Client];
        let mut config = Config {
            kubelet_client: pki::RotatingCertificate::new(
                authority.load_or_issue(folder.path(), "client", "kubelets", None, &usages, &[]).unwrap(),
                "",
            )
            .unwrap(),
            front_proxy_authority: front.certificate_pem().into(),
            front_proxy: pki::RotatingCertificate::new(
                front.load_or_issue(folder.path(), "front", "front-proxy-client", None, &usages, &[]).unwrap(),
                "",
            )
            .unwrap(),
            authority: authority.clone(),
            token_key: Arc::new(pki::TokenKey::new(&pki::new_key().unwrap()).unwrap()),
            join_secret: "secret".into(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            cluster_domain: "cluster.local".into(),
            advertise: ("192.0.2.1".parse().unwrap(), 6443),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            audit: None,
            disabled: Vec::new(),
            plugins: Vec::new(),
            external_ips: Vec::new(),
        };
        change(&mut config);
        let api = ApiServer::start(config, store.clone()).await.unwrap();
        Server {
            api,
            store,
            authority,
            user: User::new("admin", &["system:masters", "system:authenticated"]),
            _folder: folder,
        }
    }

    /// Sends a request as the administrator.
    pub async fn send(&self, request: Request<Bytes>) -> Response<Body> {
        self.send_as(&self.user, request).await
    }

    pub async fn send_as(&self, user: &User, request: Request<Bytes>) -> Response<Body> {
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        self.api.handle(request, Peer::Component(Arc::new(user.clone()))).await
    }

    /// Sends a request as somebody who is known by what he shows alone: a certificate, or headers.
    pub async fn remote(&self, certificate: Option<(&str, &[&str])>, request: Request<Bytes>) -> (u16, Value) {
        let facts = certificate.map(|(name, groups)| {
            Arc::new(pki::CertificateInfo {
                common_name: name.into(),
                organizations: groups.iter().map(|g| (*g).to_string()).collect(),
                names: Vec::new(),
                not_before: 0,
                not_after: i64::MAX,
            })
        });
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        let (code, _, bytes) = read(self.api.handle(request, Peer::Remote(facts)).await).await;
        (code.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Sends a body of JSON as a user.
    pub async fn json_as(&self, user: &User, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let answer = self.send_as(user, request.body(Bytes::from(body.to_string())).unwrap()).await;
        let (code, _, bytes) = read(answer).await;
        (code.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub async fn get(&self, path: &str, accept: &str) -> (StatusCode, String, Bytes) {
        let request = Request::get(path).header("accept", accept).body(Bytes::new()).unwrap();
        read(self.send(request).await).await
    }

    /// A GET that must succeed with JSON.
    pub async fn read(&self, path: &str) -> Value {
        let (code, _, bytes) = self.get(path, "application/json").await;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// Starts a watch, whose events are then read one by one.
    pub async fn watch(&self, path: &str) -> Watch {
        let answer = self.send(Request::get(path).body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.status(), 200, "{path}");
        Watch { body: answer.into_body(), rest: Vec::new() }
    }

    /// Sends a patch of the given media type, and reads JSON.
    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> (StatusCode, Value) {
        let request = Request::patch(path).header("content-type", format!("application/{kind}"));
        let (code, _, bytes) = read(self.send(request.body(Bytes::from(patch.to_string())).unwrap()).await).await;
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Sends a body of JSON, and reads one.
    pub async fn json(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let (code, _, bytes) = read(self.send(request.body(Bytes::from(body.to_string())).unwrap()).await).await;
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The account that pods of the namespace `default` have; the controller isn't there that makes it.
    pub async fn create_account(&self) {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    }

    /// Creates what must be accepted.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.json("POST", path, &body).await;
        assert_eq!(code, 201, "{answer}");
        answer
    }
}

pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event, or `None` when the server ended the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// The next events in short: what happened to whom.
    pub async fn told(&mut self, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..count {
            let Some(event) = self.next().await else { break };
            let (what, object) = (event["type"].as_str().unwrap_or(""), &event["object"]);
            told.push(format!("{what} {}", object["metadata"]["name"].as_str().unwrap_or("")).trim_end().to_string());
        }
        told
    }
}

/// Code, content type and body.
pub async fn read(response: Response<Body>) -> (StatusCode, String, Bytes) {
    let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    let code = response.status();
    (code, kind, response.into_body().collect().await.unwrap().to_bytes())
}
