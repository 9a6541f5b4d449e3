//! Health-check node ports, by which external load balancers learn whether this node has endpoints of a service (`healthCheckNodePort`).

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

use crate::plan::HealthCheck;

/// Timeout of a client's request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The open health-check node ports.
#[derive(Default)]
pub struct HealthCheckServers {
    open: HashMap<u16, (Arc<Mutex<HealthCheck>>, JoinHandle<()>)>,
}

impl HealthCheckServers {
    /// Opens, updates and closes ports, so that they are those of `wanted`.
    pub fn sync(&mut self, wanted: BTreeMap<u16, HealthCheck>) {
        self.open.retain(|port, (_, task)| {
            let stays = wanted.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        for (port, new) in wanted {
            if let Some((health, task)) = self.open.get(&port)
                && !task.is_finished()
            {
                *health.lock() = new;
                continue;
            }
            let health = Arc::new(Mutex::new(new));
            let of = health.clone();
            let task = tasks::until_done("service-health", move || serve(port, of.clone()));
            self.open.insert(port, (health, task));
        }
    }
}

async fn serve(port: u16, health: Arc<Mutex<HealthCheck>>) {
    let listener = match TcpListener::bind(("0.0.0.0", port)).await {
        Ok(listener) => listener,
        Err(error) => {
            let service = health.lock().service.clone();
            tracing::warn!(port, %error, namespace = service.0, service = service.1, "failed to listen on healthCheckNodePort");
            return;
        }
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = health.clone();
        tasks::spawn("service-health-connection", async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let answer = answer(&health.lock());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).keep_alive(false);
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The response of kube-proxy: 200 with local endpoints, 503 without.
fn answer(health: &HealthCheck) -> Response<Full<Bytes>> {
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
