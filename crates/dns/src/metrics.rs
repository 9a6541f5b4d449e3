//! Metrics, with CoreDNS' names where they are the same, in the process' registry; and CoreDNS' port for scraping.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// CoreDNS' metrics port.
const PORT: u16 = 9153;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of concurrent scrapes.
const MAX_CONNECTIONS: usize = 16;
const ACCEPT_RETRY_PERIOD: Duration = Duration::from_millis(100);

struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    durations: Histogram,
    forwarded: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
    // Buckets from 0.25 ms up, doubling, as CoreDNS'.
    let buckets = prometheus::exponential_buckets(0.00025, 2.0, 16).unwrap_or_default();
    let durations =
        HistogramOpts::new("coredns_dns_request_duration_seconds", "Time that each question took").buckets(buckets);
    let made = || -> prometheus::Result<Metrics> {
        Ok(Metrics {
            requests: counter("coredns_dns_requests_total", "Questions", &["family", "proto", "type"])?,
            responses: counter("coredns_dns_responses_total", "Answers", &["rcode"])?,
            durations: Histogram::with_opts(durations)?,
            forwarded: IntCounter::new(
                "coredns_forward_requests_total",
                "Questions about names outside of the cluster",
            )?,
        })
    };
    let metrics = made().unwrap_or_else(|error| unreachable!("the names are well-formed: {error}"));
    let all: [Box<dyn prometheus::core::Collector>; 4] = [
        Box::new(metrics.requests.clone()),
        Box::new(metrics.responses.clone()),
        Box::new(metrics.durations.clone()),
        Box::new(metrics.forwarded.clone()),
    ];
    for collector in all {
        let _ = prometheus::register(collector);
    }
    metrics
});

/// Counts a query and measures its duration.
pub struct QueryMetrics {
    at: Instant,
}

impl QueryMetrics {
    /// Starts the measurement of a query.
    pub fn new(question: &Message, peer: IpAddr, proto: &'static str) -> Self {
        let family = if peer.to_canonical().is_ipv4() { "1" } else { "2" };
        // Only known types become labels, so that clients can't create labels without limit.
        let kind = match question.queries.first().map(|q| q.query_type()) {
            Some(RecordType::A) => "A",
            Some(RecordType::AAAA) => "AAAA",
            Some(RecordType::SRV) => "SRV",
            Some(RecordType::PTR) => "PTR",
            Some(RecordType::TXT) => "TXT",
            Some(RecordType::MX) => "MX",
            Some(RecordType::NS) => "NS",
            Some(RecordType::SOA) => "SOA",
            Some(RecordType::CNAME) => "CNAME",
            Some(RecordType::HTTPS) => "HTTPS",
            _ => "other",
        };
        METRICS.requests.with_label_values(&[family, proto, kind]).inc();
        QueryMetrics { at: Instant::now() }
    }

    /// Counts the response.
    pub fn answered(self, answer: &Message) {
        let code = match answer.metadata.response_code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::Refused => "REFUSED",
            ResponseCode::FormErr => "FORMERR",
            _ => "other",
        };
        METRICS.responses.with_label_values(&[code]).inc();
        METRICS.durations.observe(self.at.elapsed().as_secs_f64());
    }
}

/// Counts a forwarded query.
pub fn forwarded() {
    METRICS.forwarded.inc();
}

/// Serves the metrics on CoreDNS' port. If the port is in use, only the kubelet's /metrics has them.
pub async fn serve(address: IpAddr) {
    LazyLock::force(&METRICS);
    let listener = match TcpListener::bind((address, PORT)).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, %address, port = PORT, "failed to serve DNS metrics on this address; the kubelet's /metrics has them, too");
            return;
        }
    };
    let clients = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY_PERIOD).await;
            continue;
        };
        tasks::spawn("dns-metrics-connection", async move {
            let connection =
                http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        let mut response = Response::new("404 page not found\n".into());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let mut response = Response::new(own_metrics().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
    Ok(response)
}

fn own_metrics() -> String {
    let mut families = prometheus::gather();
    families.retain(|family| family.name().starts_with("coredns_"));
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}
