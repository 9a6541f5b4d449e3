//! Probes against servers of their own, on loopback.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use super::*;

fn target() -> Target {
    let ip = "127.0.0.1".parse().unwrap();
    Target { id: String::new(), ip, container: Container::default(), started: Instant::now() }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn https_is_asked_without_knowing_the_certificate() {
    let identity = pki::self_signed("probe.example").unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|request: ::http::Request<hyper::body::Incoming>| async move {
                let code = if request.uri().path() == "/well" { 200 } else { 503 };
                let answer = ::http::Response::builder().status(code).body(Full::new(Bytes::from("x"))).unwrap();
                Ok::<_, Infallible>(answer)
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let get = |path: &str| HTTPGetAction {
        path: Some(path.into()),
        port: IntOrString::Int(port.into()),
        scheme: Some("HTTPS".into()),
        ..HTTPGetAction::default()
    };
    let ill = ProbeError::Failed("HTTP probe failed with statuscode: 503".into());
    assert_eq!(http::probe(&target(), &get("/well")).await, Ok(Health::Well));
    assert_eq!(http::probe(&target(), &get("/ill")).await, Err(ill));
    // A hook has done its part when it is answered.
    assert_eq!(http::hook(&target(), &get("/ill")).await, Ok(Hook::Done));
}

/// A server without TLS that answers every request alike, and the requests that it got.
async fn server(answer: &'static str) -> (u16, Arc<parking_lot::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (listener, port) = listen().await;
    let requests = Arc::<parking_lot::Mutex<Vec<String>>>::default();
    let all = requests.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            all.lock().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, requests)
}

fn action(port: u16, more: serde_json::Value) -> HTTPGetAction {
    let mut action = serde_json::json!({"port": port});
    action.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(action).unwrap()
}

#[tokio::test]
async fn answers_that_lead_elsewhere_are_successes_with_a_warning() {
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 2\r\n\r\nno";
    let (port, _) = server(elsewhere).await;
    let warning = Health::Warning("Probe terminated redirects, Response body: no".into());
    assert_eq!(http::probe(&target(), &action(port, serde_json::json!({}))).await, Ok(warning));
    // One that leads to itself isn't followed for ever.
    let (port, requests) = server("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
    let failed = http::probe(&target(), &action(port, serde_json::json!({}))).await;
    assert!(
        matches!(&failed, Err(ProbeError::Failed(why)) if why.contains("stopped after 10 redirects")),
        "{failed:?}"
    );
    assert_eq!(requests.lock().len(), 10);
    // An answer that breaks off says nothing of the container.
    let (port, _) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nno").await;
    let broken = async {
        let asked = http::probe(&target(), &action(port, serde_json::json!({}))).await;
        matches!(asked, Err(ProbeError::Errored(_)))
    };
    assert!(broken.await);
}

#[tokio::test]
async fn hooks_fall_back_from_https_where_the_server_does() {
    let (port, requests) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let headers = serde_json::json!([{"name": "Authorization", "value": "secret"}, {"name": "X", "value": "1"}]);
    let https = action(port, serde_json::json!({"scheme": "HTTPS", "httpHeaders": headers}));
    assert_eq!(http::hook(&target(), &https).await, Ok(Hook::FellBack(format!("127.0.0.1:{port}"))));
    let asked = requests.lock().last().cloned().unwrap().to_lowercase();
    assert!(asked.contains("x: 1") && asked.contains("user-agent: kube-lifecycle/1.37"), "{asked}");
    assert!(!asked.contains("secret"), "{asked}");
    assert!(http::probe(&target(), &https).await.is_err(), "a probe doesn't");
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_asked_counts_for_nothing() {
    let liveness = |handler: serde_json::Value| {
        let mut probe = serde_json::json!({"failureThreshold": 1, "periodSeconds": 5});
        probe.as_object_mut().unwrap().extend(handler.as_object().unwrap().clone());
        serde_json::json!({"name": "c", "livenessProbe": probe})
    };
    for handler in [
        serde_json::json!({"httpGet": {"port": "nosuch"}}),
        serde_json::json!({"tcpSocket": {"port": 0}}),
        serde_json::json!({"tcpSocket": {"port": "70000"}}),
        serde_json::json!({}),
    ] {
        let told = results(0, liveness(handler.clone())).await;
        let errored = |told: &&(u64, Finding, bool)| told.1 == Finding::Errored;
        assert!(told.len() == 50 && told.iter().all(|told| errored(&told)), "{handler}: {told:?}");
    }
}

#[test]
fn commands_of_probes_know_the_variables_of_the_spec() {
    let env = serde_json::json!([{"name": "PORT", "value": "8080"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "env": env})).unwrap();
    let command = ["check", "$(PORT)", "$$(PORT)", "$(POD)x", "$(NOSUCH)"].map(String::from);
    let expanded = static_command(&command, &container).unwrap();
    assert_eq!(expanded, ["check", "8080", "$(PORT)", "x", "$(NOSUCH)"]);
}

#[test]
fn ports_are_found_by_number_name_and_text() {
    let container = serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
    let target = || Target { container: serde_json::from_value(container.clone()).unwrap(), ..target() };
    let found = |value: serde_json::Value| port(&target(), &serde_json::from_value(value).unwrap());
    assert_eq!(found(serde_json::json!("web")), Ok(8080));
    assert_eq!(found(serde_json::json!("9090")), Ok(9090));
    assert_eq!(found(serde_json::json!(1)), Ok(1));
    for bad in [serde_json::json!(0), serde_json::json!(65536), serde_json::json!("nosuch"), serde_json::json!("0")] {
        assert!(found(bad.clone()).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn grpc_health_is_asked_for() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: ::http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                // SERVING for "db", NOT_SERVING for the rest.
                let status = if asked.ends_with(b"db") { 1 } else { 2 };
                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                let mut trailers = ::http::HeaderMap::new();
                trailers.insert("grpc-status", ::http::HeaderValue::from_static("0"));
                let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
                Ok::<_, Infallible>(::http::Response::new(body))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    let action = |service: &str| GRPCAction { port: port.into(), service: Some(service.into()), mode: None };
    assert_eq!(grpc::check(&target(), &action("db")).await, Ok(()));
    assert!(grpc::check(&target(), &action("cache")).await.unwrap_err().to_string().contains("NOT_SERVING"));
    let nobody = GRPCAction { port: 1, service: None, mode: None };
    assert!(grpc::check(&target(), &nobody).await.unwrap_err().to_string().contains("dial tcp"));
}

/// A container whose command fails until a moment, and the moments at which it was run.
struct Slow {
    well: Instant,
    runs: parking_lot::Mutex<Vec<Instant>>,
}

#[async_trait::async_trait]
impl PodContainers for Slow {
    async fn watch(
        &self,
    ) -> std::io::Result<(Vec<runtime::protocol::ContainerState>, mpsc::Receiver<runtime::ContainerEvent>)> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    async fn create(
        &self,
        launch: &crate::container_runtime::launch::Launch<'_>,
    ) -> Result<String, crate::container_runtime::launch::StartError> {
        Ok(launch.id.into())
    }
    async fn start(
        &self,
        _: &crate::container_runtime::launch::Launch<'_>,
        _: &str,
    ) -> Result<(), crate::container_runtime::launch::StartError> {
        Ok(())
    }
    async fn stop(&self, _: &str, _: crate::container_runtime::StopOptions) {}
    async fn delete(&self, _: &str) -> std::io::Result<()> {
        Ok(())
    }
    async fn update_resources(&self, _: &str, _: &str, _: &runtime::spec::Limits) -> std::io::Result<()> {
        Ok(())
    }
    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Result<(i32, String), ExecError> {
        self.runs.lock().push(Instant::now());
        Ok((i32::from(Instant::now() < self.well), String::new()))
    }
    async fn exec(
        &self,
        _: &str,
        _: &[String],
        _: crate::streaming::Wants,
        _: mpsc::Receiver<crate::streaming::Event>,
        _: &crate::streaming::Sender,
    ) -> Result<serde_json::Value, crate::container_runtime::StreamError> {
        Err(crate::container_runtime::StreamError::ClientGone)
    }
    async fn attach(
        &self,
        _: &str,
        _: crate::streaming::Wants,
        _: mpsc::Receiver<crate::streaming::Event>,
        _: &crate::streaming::Sender,
    ) -> Result<(), crate::container_runtime::StreamError> {
        Err(crate::container_runtime::StreamError::ClientGone)
    }
}

/// The results on a container that is well after so many milliseconds, each with the milliseconds until it came.
async fn results(well_after: u64, container: serde_json::Value) -> Vec<(u64, Finding, bool)> {
    let begin = Instant::now();
    let slow =
        Slow { well: clock::deadline(begin, Duration::from_millis(well_after)), runs: parking_lot::Mutex::default() };
    let target = Target { container: serde_json::from_value(container).unwrap(), ..target() };
    let (sender, mut receiver) = mpsc::channel(16);
    let watching = tokio::spawn(watch(Arc::new(slow), target, false, sender));
    let mut told = Vec::new();
    // What is told without an end has been told often enough.
    while told.len() < 50
        && let Ok(Some(result)) = tokio::time::timeout(Duration::from_secs(60), receiver.recv()).await
    {
        told.push((begin.elapsed().as_millis() as u64, result.finding, result.healthy));
    }
    watching.abort();
    told
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_has_the_patience_that_it_promises() {
    let probe = |kind: &str, threshold: i32| {
        serde_json::json!({"name": "c", kind: {"exec": {"command": ["x"]}, "periodSeconds": 5,
            "failureThreshold": threshold}})
    };
    // The third look that counts is after ten seconds; one between them finds out early that all is well.
    let told = results(8_000, probe("startupProbe", 3)).await;
    assert_eq!(
        told,
        [(0, Finding::Unhealthy, false), (5_000, Finding::Unhealthy, false), (10_000, Finding::Started, true)]
    );
    let told = results(60_000, probe("startupProbe", 3)).await;
    assert_eq!(told.last(), Some(&(10_000, Finding::Failed, false)), "{told:?}");
    let told = results(500, probe("startupProbe", 1)).await;
    assert_eq!(told, [(0, Finding::Failed, false)]);
    let told = results(500, probe("readinessProbe", 3)).await;
    assert_eq!(told[..2], [(0, Finding::Unhealthy, false), (600, Finding::Ready, true)], "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn several_successes_are_a_period_apart_and_delays_count_from_the_start() {
    let told = results(
        0,
        serde_json::json!({"name": "c", "readinessProbe": {"exec": {"command": ["x"]},
        "periodSeconds": 5, "successThreshold": 3}}),
    )
    .await;
    assert_eq!(told, [(10_000, Finding::Ready, true)]);
    let told = results(
        0,
        serde_json::json!({"name": "c",
        "startupProbe": {"exec": {"command": ["x"]}, "initialDelaySeconds": 4},
        "readinessProbe": {"exec": {"command": ["x"]}, "initialDelaySeconds": 6}}),
    )
    .await;
    assert_eq!(told, [(4_000, Finding::Started, true), (6_000, Finding::Ready, true)]);
}

#[tokio::test(start_paused = true)]
async fn extremes_of_every_number_of_a_probe_are_borne() {
    for number in [i32::MIN, -1, 0, 1, i32::MAX] {
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            for grace in [i64::MIN, i64::MAX] {
                let probe = serde_json::json!({"exec": {"command": ["x"]}, field: number,
                    "terminationGracePeriodSeconds": grace});
                for (kind, well) in [("startupProbe", 0), ("readinessProbe", 900), ("livenessProbe", 90_000)] {
                    results(well, serde_json::json!({"name": "c", kind: probe})).await;
                }
            }
        }
    }
}
