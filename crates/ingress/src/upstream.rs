//! Requests to backends: choice of a backend and an endpoint, attempts, and errors.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::{LengthLimitError, Limited};
use http1::outbound::ConnectionPool;
use http1::{Body, BoxError, HttpError, text_response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_rustls::TlsConnector;

use crate::table::Backend;

/// How long a backend that speaks HTTP/2 may take to begin its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Endpoints that are tried for a request.
const MAX_ATTEMPTS: usize = 3;
/// Request bodies up to this many bytes are buffered, so that the request can be sent to another endpoint.
const MAX_REPLAYED_BYTES: u64 = 64 << 10;

type Connector = HttpsConnector<HttpConnector>;

/// Clients of backends.
#[derive(Clone)]
pub struct Upstream {
    /// HTTP/1.1.
    pool: ConnectionPool,
    /// HTTP/2, for gRPC.
    grpc: Client<Connector, Body>,
}

impl Upstream {
    /// Clients without connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
            let builder = match builder.with_safe_default_protocol_versions() {
                Ok(builder) => builder,
                Err(error) => unreachable!("ring speaks TLS 1.2 and 1.3: {error}"),
            };
            let verifier = pki::InsecureSkipVerify::new(provider.clone());
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        };
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(Duration::from_secs(60)).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let https = HttpsConnectorBuilder::new().with_tls_config(tls()).https_or_http().enable_http2();
        let grpc = builder.http2_only(true).build(https.wrap_connector(connector));
        // Only HTTP/1.1 can be upgraded, so h2 isn't offered to backends with TLS.
        Upstream { pool: ConnectionPool::new(TlsConnector::from(Arc::new(tls()))), grpc }
    }

    /// Closes connections to backends that were idle for longer than a minute.
    pub fn close_idle_connections(&self) {
        self.pool.close_idle();
    }

    /// Sends a request to an endpoint.
    ///
    /// # Errors
    /// When the endpoint can't be reached, or its response is malformed or late.
    pub async fn send(
        &self,
        endpoint: &Arc<str>,
        backend: &Backend,
        request: &Request<()>,
        body_source: &mut ReplayableBody,
    ) -> Result<Response<Body>, UpstreamError> {
        if backend.protocol.is_grpc() {
            return Box::pin(self.send_by_http2(endpoint, backend, request, body_source)).await;
        }
        self.send_by_http1(endpoint, backend, request, body_source).await
    }

    async fn send_by_http1(
        &self,
        endpoint: &Arc<str>,
        backend: &Backend,
        request: &Request<()>,
        body_source: &mut ReplayableBody,
    ) -> Result<Response<Body>, UpstreamError> {
        let secure = backend.protocol.is_secure();
        loop {
            // An idle connection may turn out to be closed: then the next one is tried, and at last a new one. The rare path is boxed to keep
            // the future small.
            let connection = match self.pool.take_idle(endpoint, secure) {
                Some(connection) => connection,
                None => Box::pin(self.pool.connect(endpoint, secure)).await.map_err(UpstreamError::connect_failed)?,
            };
            let is_reused = connection.is_reused();
            let body = body_source.next().ok_or_else(|| UpstreamError::of(HttpError::Closed))?;
            match self.pool.send_request(connection, request, body).await {
                Ok(response) => return Ok(response),
                // The backend may have processed the request, so only an idempotent one is retried (RFC 9110, section 9.2.2).
                Err(error) if is_reused && request.method().is_idempotent() && closed(&error) => {}
                Err(error) => return Err(UpstreamError::of(error)),
            }
        }
    }

    async fn send_by_http2(
        &self,
        endpoint: &str,
        backend: &Backend,
        request: &Request<()>,
        body_source: &mut ReplayableBody,
    ) -> Result<Response<Body>, UpstreamError> {
        let fail = |error: BoxError| UpstreamError::of(HttpError::Io(std::io::Error::other(error)));
        let body = body_source.next().ok_or_else(|| UpstreamError::of(HttpError::Closed))?;
        let mut request = request.clone().map(|()| body);
        let scheme = if backend.protocol.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(endpoint.parse().map_err(|e: http::uri::InvalidUri| fail(e.into()))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| fail(e.into()))?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().remove(header::HOST);
        let sending = tokio::time::timeout(RESPONSE_TIMEOUT, self.grpc.request(request));
        match sending.await.map_err(|_| UpstreamError::of(HttpError::TimedOut))? {
            Ok(response) => Ok(response.map(Body::Stream)),
            Err(error) if is_length_limit(&error) => Err(UpstreamError::of(HttpError::Body(error.into()))),
            Err(error) => Err(UpstreamError { not_connected: error.is_connect(), ..fail(error.into()) }),
        }
    }
}

/// Picks a backend at random by weight; none if all weights are 0.
pub fn choose_backend(backends: &[Backend]) -> Option<&Backend> {
    if let [only] = backends {
        return (only.weight > 0).then_some(only);
    }
    let all: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut at = (all > 0).then(|| rand::random_range(0..all))?;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let here = at < weight;
        at = at.saturating_sub(weight);
        here
    })
}

/// Picks an untried endpoint at random; none after [`MAX_ATTEMPTS`].
pub fn next_endpoint(endpoints: usize, tried: &[usize]) -> Option<usize> {
    let left = endpoints.saturating_sub(tried.len());
    if left == 0 || tried.len() == MAX_ATTEMPTS {
        return None;
    }
    let at = if left == 1 { 0 } else { rand::random_range(0..left) };
    (0..endpoints).filter(|number| !tried.contains(number)).nth(at)
}

/// The body of a request: buffered for several attempts if it is small, else for one.
pub enum ReplayableBody {
    /// In memory.
    Buffered(Bytes),
    /// Streamed; taken by the first attempt.
    Once(Option<Body>),
}

impl ReplayableBody {
    /// Buffers the body if it is small. `limit` is the limit of its length.
    ///
    /// # Errors
    /// When a small body can't be read.
    pub async fn new(body: Body, length: Option<u64>, limit: Option<u64>) -> Result<Self, BoxError> {
        if body.is_end_stream() {
            return Ok(ReplayableBody::Buffered(Bytes::new()));
        }
        if length.is_some_and(|length| length <= MAX_REPLAYED_BYTES) {
            let whole = Box::pin(bounded::body(body, MAX_REPLAYED_BYTES as usize)).await;
            return Ok(ReplayableBody::Buffered(whole?));
        }
        Ok(ReplayableBody::Once(Some(match limit.and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) => Body::Limited(Box::new(Limited::new(body, limit))),
            None => body,
        })))
    }

    fn next(&mut self) -> Option<Body> {
        match self {
            ReplayableBody::Buffered(bytes) => Some(Body::Whole(bytes.clone())),
            ReplayableBody::Once(body) => body.take(),
        }
    }
}

/// Why a backend gave no response.
pub struct UpstreamError {
    /// What failed.
    pub error: HttpError,
    /// The connection wasn't established, so that no backend has seen the request.
    pub not_connected: bool,
}

impl UpstreamError {
    /// An error of an established connection.
    pub fn of(error: HttpError) -> Self {
        UpstreamError { error, not_connected: false }
    }

    fn connect_failed(error: std::io::Error) -> Self {
        UpstreamError { error: HttpError::Io(error), not_connected: true }
    }
}

/// Whether a connection was closed before any byte of a response.
fn closed(error: &HttpError) -> bool {
    match error {
        HttpError::Closed => true,
        HttpError::Io(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        _ => false,
    }
}

/// The response to a request whose body can't be read.
pub fn request_body_error(error: &BoxError) -> Response<Body> {
    if let Some(HttpError::TimedOut) = error.downcast_ref() {
        return text_response(StatusCode::REQUEST_TIMEOUT, "408: the request body timed out");
    }
    if is_length_limit(&**error) {
        too_large()
    } else {
        text_response(StatusCode::BAD_REQUEST, "400: the request body is incomplete or malformed")
    }
}

/// The response to a request whose body is too large.
pub fn too_large() -> Response<Body> {
    text_response(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows")
}

/// Whether the cause of an error is that a body exceeds the limit.
fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
