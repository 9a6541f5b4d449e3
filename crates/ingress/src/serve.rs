//! Connections from outside, and what happens to a request on its way to a backend.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::seq::SliceRandom as _;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Shared;
use crate::backends::{Body, BoxError, Lines, Unanswered};
use crate::table::{Action, Backend, Found, Redirect};

/// How long a client may take to say hello, or to send its headers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a backend may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Bodies up to this are kept until a backend has taken them, so that another one can be asked, in bytes.
const KEPT: u64 = 64 << 10;

/// Headers that are about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");

type Connector = HttpsConnector<HttpConnector>;

/// Answers requests.
#[derive(Clone)]
pub struct Handler {
    table: Shared,
    lines: Lines,
    grpc: Client<Connector, Body>,
}

/// Where a connection came in, and what backends are told of that.
struct Entry {
    from: IpAddr,
    port: u16,
    secure: bool,
    client: HeaderValue,
    port_text: HeaderValue,
}

impl Entry {
    fn new(from: SocketAddr, port: u16, secure: bool) -> Self {
        let from = from.ip().to_canonical();
        let text = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text));
        let nobody = || HeaderValue::from_static("");
        let client = text(from.to_string()).unwrap_or_else(|_| nobody());
        Entry { from, port, secure, client, port_text: text(port.to_string()).unwrap_or_else(|_| nobody()) }
    }
}

fn text(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(format!("{message}\n").into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl Handler {
    pub fn new(table: Shared) -> Self {
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
            let anybody = pki::Anybody::new(provider.clone());
            builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody)).with_no_client_auth()
        };
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(Duration::from_secs(60)).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let https = HttpsConnectorBuilder::new().with_tls_config(tls()).https_or_http().enable_http2();
        let grpc = builder.http2_only(true).build(https.wrap_connector(connector));
        // Only HTTP/1.1 can be upgraded, so backends with TLS aren't offered more.
        Handler { table, lines: Lines::new(TlsConnector::from(Arc::new(tls()))), grpc }
    }

    /// Closes connections that nobody needed for a while.
    pub fn sweep(&self) {
        self.lines.sweep();
    }

    async fn handle(&self, request: Request<Incoming>, entry: &Entry) -> Response<Body> {
        let authority = request.uri().authority().map(ToString::to_string);
        let named = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).map(String::from);
        let Some(host) = authority.or(named) else {
            return text(StatusCode::BAD_REQUEST, "400: the request names no host");
        };
        let Ok(name) = host.parse::<Authority>() else {
            return text(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let (parts, body) = request.into_parts();
        let found = self.table.get().ports.get(&entry.port).and_then(|port| port.hosts.find(name.host(), &parts));
        let Some(found) = found else {
            return text(StatusCode::NOT_FOUND, "404: no Ingress and no route has a rule for this host and path");
        };
        let told = found.action.log.then(|| Told::new(&host, &parts, entry));
        let answer = self.answer(Request::from_parts(parts, body), &found, name.host(), &host, entry).await;
        if let Some(told) = told {
            told.log(&found, answer.status());
        }
        answer
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        found: &Found,
        name: &str,
        host: &str,
        entry: &Entry,
    ) -> Response<Body> {
        let action = &found.action;
        if let Some(to) = action.redirect.as_ref().filter(|to| !(to.only_plain && entry.secure)) {
            return redirect(to, found, name, request.uri(), entry);
        }
        let Some(backend) = choose(&action.backends) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "500: the route names no backend");
        };
        if let Some(why) = &backend.broken {
            return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("500: {why}"));
        }
        if backend.endpoints.is_empty() {
            let why = format!("503: service {} has no endpoint that is ready", backend.name);
            return text(StatusCode::SERVICE_UNAVAILABLE, &why);
        }
        let path = found.path(action.path.as_ref(), request.uri().path());
        let mut forwarding = pin!(self.forward(request, action, backend, &path, host, entry));
        let mut answer = match action.timeout {
            None => forwarding.as_mut().await,
            Some(limit) => tokio::time::timeout(limit, forwarding).await.unwrap_or_else(|_| {
                let why = format!("504: {} didn't answer within {}s", backend.name, limit.as_secs_f64());
                text(StatusCode::GATEWAY_TIMEOUT, &why)
            }),
        };
        backend.response.apply(answer.headers_mut());
        action.response.apply(answer.headers_mut());
        answer
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        action: &Action,
        backend: &Backend,
        path: &str,
        host: &str,
        entry: &Entry,
    ) -> Response<Body> {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if let (Some(most), Some(length)) = (action.largest_body, length)
            && length > most
        {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows");
        }
        // Of what came, if it stands there; nothing else is a host but what can be in a header.
        let named = parts.headers.get(header::HOST).filter(|named| named.as_bytes() == host.as_bytes()).cloned();
        let Some(named) = named.or_else(|| HeaderValue::from_str(host).ok()) else {
            return text(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let mut headers = onward_headers(&parts.headers, named, entry, upgrade);
        action.request.apply(&mut headers);
        backend.request.apply(&mut headers);
        if let Some(host) = action.host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()) {
            headers.insert(header::HOST, host);
        }
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_string(),
        };
        let most = action.largest_body.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
        let mut body = Some(Limited::new(body, most));
        let may_be_kept = length.is_some_and(|l| l <= KEPT) || matches!(parts.method, Method::GET | Method::HEAD);
        let kept = match body.take_if(|_| may_be_kept) {
            Some(body) if http_body::Body::is_end_stream(&body) => Some(Bytes::new()),
            Some(body) => match Box::pin(body.collect()).await {
                Ok(whole) => Some(whole.to_bytes()),
                Err(error) => return failed_body(&error),
            },
            None => None,
        };
        let Ok(target) = PathAndQuery::try_from(target) else {
            return text(StatusCode::BAD_REQUEST, "400: the path is malformed");
        };
        let mut first = body.map(Body::Client);
        // A request can be made again, if nothing of it is lost with the first try.
        let mut make = || -> Option<Request<Body>> {
            let body = kept.clone().map(Body::Whole).or_else(|| first.take())?;
            let mut onward = Request::new(body);
            *onward.method_mut() = parts.method.clone();
            *onward.uri_mut() = target.clone().into();
            *onward.headers_mut() = headers.clone();
            Some(onward)
        };
        let mut endpoints: Vec<&Arc<str>> = backend.endpoints.iter().collect();
        endpoints.shuffle(&mut rand::rng());
        let mut last = String::new();
        for endpoint in endpoints.into_iter().take(3) {
            let asking = pin!(async {
                match backend.protocol.is_grpc() {
                    true => Box::pin(self.ask_by_http2(endpoint, backend, &mut make)).await,
                    false => self.ask(endpoint, backend, &mut make).await,
                }
            });
            let limit = action.backend_timeout.unwrap_or(ANSWER);
            match tokio::time::timeout(limit, asking).await {
                Ok(Ok(answer)) => return back(answer, client_side),
                Ok(Err(failure)) => {
                    if let Some(too_large) = over(&*failure.error) {
                        return too_large;
                    }
                    let error = &failure.error;
                    tracing::debug!(%error, %endpoint, backend = backend.name, "a backend didn't answer");
                    last = format!("502: {} at {endpoint} can't be reached", backend.name);
                    // Only who was never reached can't have done anything yet.
                    if !failure.never_reached {
                        break;
                    }
                }
                Err(_) => {
                    let why =
                        format!("504: {} at {endpoint} didn't answer within {}s", backend.name, limit.as_secs_f64());
                    return text(StatusCode::GATEWAY_TIMEOUT, &why);
                }
            }
        }
        text(StatusCode::BAD_GATEWAY, &last)
    }

    async fn ask(
        &self,
        endpoint: &Arc<str>,
        backend: &Backend,
        make: &mut (impl FnMut() -> Option<Request<Body>> + Send),
    ) -> Result<Response<Body>, Failure> {
        let secure = backend.protocol.is_secure();
        let mut unsent = None;
        loop {
            // What is rare is boxed: all of a request's state is moved about, whether it is used or not.
            // One that was kept may be found to be closed: then the next, and at last a new one.
            let line = match self.lines.kept(endpoint, secure) {
                Some(line) => line,
                None => Box::pin(self.lines.connect(endpoint, secure)).await.map_err(Failure::unreached)?,
            };
            let was_kept = line.was_kept();
            let Some(request) = unsent.take().or_else(&mut *make) else {
                return Err(Failure { error: "the body was lost".into(), never_reached: false });
            };
            // A backend may have done something at a request, and be asked again only where that does no harm (RFC 9110, 9.2.2).
            let harmless = request.method().is_idempotent();
            match self.lines.ask(line, request).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered { request: Some(request), .. }) if was_kept => unsent = Some(request),
                Err(Unanswered { error, .. }) if was_kept && harmless && closed(&error) => {}
                Err(Unanswered { error, .. }) => return Err(Failure { error: error.into(), never_reached: false }),
            }
        }
    }

    async fn ask_by_http2(
        &self,
        endpoint: &str,
        backend: &Backend,
        make: &mut (impl FnMut() -> Option<Request<Body>> + Send),
    ) -> Result<Response<Body>, Failure> {
        let fail = |error: BoxError| Failure { error, never_reached: false };
        let mut request = make().ok_or_else(|| fail("the body was lost".into()))?;
        let scheme = if backend.protocol.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(endpoint.parse().map_err(|e: http::uri::InvalidUri| fail(e.into()))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| fail(e.into()))?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().remove(header::HOST);
        let answer = self.grpc.request(request).await;
        answer
            .map(|answer| answer.map(Body::Stream))
            .map_err(|error| Failure { never_reached: error.is_connect(), error: error.into() })
    }
}

/// Why a backend gave no answer.
struct Failure {
    error: BoxError,
    /// No backend can have seen anything of the request.
    never_reached: bool,
}

impl Failure {
    fn unreached(error: std::io::Error) -> Self {
        Failure { error: error.into(), never_reached: true }
    }
}

/// Whether a connection ended before anything of an answer came.
fn closed(error: &hyper::Error) -> bool {
    let reset = || {
        let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
        cause.is_some_and(|e| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
    };
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || reset()
}

fn failed_body(error: &BoxError) -> Response<Body> {
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => text(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows"),
        None => text(StatusCode::BAD_REQUEST, "400: the body is cut off or malformed"),
    }
}

/// The answer when a body turned out to be too large on its way.
fn over(error: &(dyn std::error::Error + 'static)) -> Option<Response<Body>> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Some(text(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows"));
        }
        cause = error.source();
    }
    None
}

/// One of the backends, each as often as its weight says.
fn choose(backends: &[Backend]) -> Option<&Backend> {
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

fn redirect(to: &Redirect, found: &Found, host: &str, uri: &Uri, entry: &Entry) -> Response<Body> {
    let own = if entry.secure { "https" } else { "http" };
    let scheme = to.scheme.as_deref().unwrap_or(own);
    let usual = if scheme == "https" { 443 } else { 80 };
    // Another scheme has another port, its own usual one.
    let port = to.port.unwrap_or(if scheme == own { entry.port } else { usual });
    let port = if port == usual { String::new() } else { format!(":{port}") };
    let path = match &to.path {
        Some(change) => found.path(Some(change), uri.path()),
        None => uri.path().to_string(),
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{scheme}://{}{port}{path}{query}", to.host.as_deref().unwrap_or(host));
    let mut response = text(to.code, &format!("{}: this is at {target}", to.code.as_u16()));
    if let Ok(location) = HeaderValue::from_str(&target) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// What the access log says of a request.
struct Told {
    begun: Instant,
    client: IpAddr,
    method: Method,
    host: String,
    path: String,
    agent: String,
}

impl Told {
    fn new(host: &str, request: &Parts, entry: &Entry) -> Self {
        let agent = request.headers.get(header::USER_AGENT).and_then(|a| a.to_str().ok()).unwrap_or("");
        Told {
            begun: Instant::now(),
            client: entry.from,
            method: request.method.clone(),
            host: host.into(),
            // Without the query, which may hold secrets.
            path: request.uri.path().into(),
            agent: agent.into(),
        }
    }

    fn log(self, found: &Found, status: StatusCode) {
        let (took_ms, status) = (self.begun.elapsed().as_millis(), status.as_u16());
        let backend = found.action.backends.first().map_or("", |backend| backend.name.as_str());
        let Told { client, method, host, path, agent, .. } = self;
        tracing::info!(target: "ingress::access", %client, %method, host, path, status, took_ms, backend, agent, "request");
    }
}

/// The headers that a backend gets: those of the client without what is about his connection, and who he is. What he
/// says of himself in their place isn't believed.
fn onward_headers(from: &HeaderMap, host: HeaderValue, entry: &Entry, upgrade: Option<HeaderValue>) -> HeaderMap {
    let connection = from.get_all(header::CONNECTION);
    let named: Vec<String> = connection
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|n| n.trim().to_ascii_lowercase()))
        .collect();
    let mut headers = HeaderMap::with_capacity(from.len() + 10);
    headers.insert(header::HOST, host.clone());
    for (name, value) in from {
        let about_connection = HOP_BY_HOP.contains(name) || named.iter().any(|n| n == name.as_str());
        if !about_connection && name != header::HOST && *name != KEEP_ALIVE {
            headers.append(name, value.clone());
        }
    }
    let scheme = HeaderValue::from_static(if entry.secure { "https" } else { "http" });
    let own = [
        (FORWARDED_FOR, entry.client.clone()),
        (REAL_IP, entry.client.clone()),
        (FORWARDED_PROTO, scheme.clone()),
        (FORWARDED_SCHEME, scheme.clone()),
        (SCHEME, scheme),
        (FORWARDED_HOST, host),
        (FORWARDED_PORT, entry.port_text.clone()),
    ];
    for (name, value) in own {
        headers.insert(name, value);
    }
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(format!("{:032x}", rand::random::<u128>())))
    {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    headers
}

/// An answer on its way back.
fn back(mut answer: Response<Body>, client_side: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return text(StatusCode::BAD_GATEWAY, "502: the backend changed protocols unasked");
        };
        let backend_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let Ok((client, backend)) = tokio::try_join!(client_side, backend_side) {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
            }
        });
        return answer.map(|_| Body::default());
    }
    for name in &HOP_BY_HOP {
        answer.headers_mut().remove(name);
    }
    answer.headers_mut().remove(KEEP_ALIVE);
    *answer.version_mut() = Version::default();
    answer
}

/// Serves a client's connection: HTTP, or HTTPS with `tls`.
pub async fn client(stream: TcpStream, from: SocketAddr, port: u16, tls: Option<Arc<ServerConfig>>, handler: Handler) {
    let entry = Entry::new(from, port, tls.is_some());
    let Some(tls) = tls else { return connection(TokioIo::new(stream), handler, entry).await };
    if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)).await {
        connection(TokioIo::new(stream), handler, entry).await;
    }
}

/// The next connection, if it can be had.
pub async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, from)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, from))
        }
        Err(error) => {
            // Out of file descriptors, most likely: those who are served go on meanwhile.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection<S>(stream: S, handler: Handler, entry: Entry)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let shared = Arc::new((handler, entry));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.0.handle(request, &shared.1).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(200).keep_alive_interval(Some(PATIENCE));
    if let Err(error) = builder.serve_connection_with_upgrades(stream, service).await {
        tracing::debug!(%error, "a connection ended");
    }
}
