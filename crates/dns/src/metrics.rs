//! What is counted of names, under CoreDNS' names where it counts the same, in the process' registry; and a port where it may be read.

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

/// Where CoreDNS tells.
const PORT: u16 = 9153;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Who may ask at a time.
const MAX_CONNECTIONS: usize = 16;
const AFTER_FAILURE: Duration = Duration::from_millis(100);

struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    durations: Histogram,
    forwarded: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
    // From a quarter of a millisecond up, doubling.
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

/// A question that is being answered.
pub struct Asked {
    at: Instant,
}

impl Asked {
    pub fn new(question: &Message, peer: IpAddr, proto: &'static str) -> Self {
        let family = if peer.to_canonical().is_ipv4() { "1" } else { "2" };
        // Only types that have a name of their own, so that nobody can make up names without end.
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
        Asked { at: Instant::now() }
    }

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

pub fn forwarded() {
    METRICS.forwarded.inc();
}

/// Tells whoever asks on CoreDNS' port. Where that is taken, only the kubelet tells.
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
            tokio::time::sleep(AFTER_FAILURE).await;
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
    let mut response = Response::new(of_names().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
    Ok(response)
}

fn of_names() -> String {
    let mut families = prometheus::gather();
    families.retain(|family| family.name().starts_with("coredns_"));
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}
