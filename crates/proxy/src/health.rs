//! Health ports: balancers outside ask there whether this node has endpoints of a service (`healthCheckNodePort`).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::plan::Health;

/// A client that takes longer than this to ask is dropped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The ports that are open, with what they tell.
#[derive(Default)]
pub struct Ports {
    open: HashMap<u16, (Arc<Mutex<Health>>, JoinHandle<()>)>,
}

impl Ports {
    /// Opens, changes and closes ports so that they are those of `wanted`.
    pub fn keep(&mut self, wanted: BTreeMap<u16, Health>) {
        self.open.retain(|port, (_, task)| {
            let stays = wanted.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        for (port, health) in wanted {
            if let Some((told, task)) = self.open.get(&port)
                && !task.is_finished()
            {
                *told.lock() = health;
                continue;
            }
            let told = Arc::new(Mutex::new(health));
            let of = told.clone();
            let task = tasks::until_done("service-health", move || serve(port, of.clone()));
            self.open.insert(port, (told, task));
        }
    }
}

async fn serve(port: u16, told: Arc<Mutex<Health>>) {
    let listener = match TcpListener::bind(("0.0.0.0", port)).await {
        Ok(listener) => listener,
        Err(error) => {
            let service = told.lock().service.clone();
            tracing::warn!(port, %error, namespace = service.0, service = service.1, "failed to listen on healthCheckNodePort");
            return;
        }
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let told = told.clone();
        tasks::spawn("service-health-connection", async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let answer = answer(&told.lock());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).keep_alive(false);
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// As kube-proxy answers: 200 with endpoints, 503 without.
fn answer(health: &Health) -> Response<Full<Bytes>> {
    let code = if health.local > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (namespace, name) = &health.service;
    let body = json!({"service": {"namespace": namespace, "name": name}, "localEndpoints": health.local,
        "serviceProxyHealthy": true});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert("x-load-balancing-endpoint-weight", health.local.into());
    response
}
