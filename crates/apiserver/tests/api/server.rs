//! A server for tests.

use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, Peer, User};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

pub struct Server {
    pub api: Arc<ApiServer>,
    user: User,
    _folder: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(pki::Authority::load_or_create(folder.path(), "ca").unwrap());
        let front = pki::Authority::load_or_create(folder.path(), "front-proxy-ca").unwrap();
        let usages = [pki::Usage::Client];
        let mut config = Config {
            kubelet_client: authority.keep(folder.path(), "client", "kubelets", None, &usages, &[]).unwrap(),
            front_proxy_authority: front.certificate_pem().into(),
            front_proxy: front.keep(folder.path(), "front", "front-proxy-client", None, &usages, &[]).unwrap(),
            authority,
            token_key_pem: pki::new_key().unwrap(),
            join_secret: "secret".into(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            cluster_domain: "cluster.local".into(),
            advertise: ("192.0.2.1".parse().unwrap(), 6443),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            audit: None,
            disabled: Vec::new(),
        };
        change(&mut config);
        let api = ApiServer::start(config, Arc::new(store::MemoryStore::default())).await.unwrap();
        Server { api, user: User::new("admin", &["system:masters", "system:authenticated"]), _folder: folder }
    }

    /// Sends a request as the administrator.
    pub async fn send(&self, request: Request<Bytes>) -> Response<Body> {
        self.send_as(&self.user, request).await
    }

    pub async fn send_as(&self, user: &User, request: Request<Bytes>) -> Response<Body> {
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        self.api.handle(request, Peer::Component(Arc::new(user.clone()))).await
    }

    pub async fn get(&self, path: &str, accept: &str) -> (StatusCode, String, Bytes) {
        let request = Request::get(path).header("accept", accept).body(Bytes::new()).unwrap();
        read(self.send(request).await).await
    }

    /// Sends a body of JSON, and reads one.
    pub async fn json(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let (code, _, bytes) = read(self.send(request.body(Bytes::from(body.to_string())).unwrap()).await).await;
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Creates what must be accepted.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.json("POST", path, &body).await;
        assert_eq!(code, 201, "{answer}");
        answer
    }
}

/// Code, content type and body.
pub async fn read(response: Response<Body>) -> (StatusCode, String, Bytes) {
    let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    let code = response.status();
    (code, kind, response.into_body().collect().await.unwrap().to_bytes())
}
