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
use http_body::Body as _;
use http_body_util::{LengthLimitError, Limited};
use http1::outbound::Lines;
use http1::{Body, BoxError, Trouble, Upgrade, Wire, inbound, text};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::either::Either;

use crate::Shared;
use crate::table::{Action, Backend, Found, Redirect};

/// How long a client may take to say hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a backend that speaks HTTP/2 may take to begin its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Endpoints that are tried for a request.
const MAX_ATTEMPTS: usize = 3;
/// Bodies up to this are kept until a backend has taken them, so that another one can be asked, in bytes.
const MAX_REPLAYED_BYTES: u64 = 64 << 10;

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

    async fn handle(&self, request: Request<Body>, entry: &Entry) -> Response<Body> {
        if *request.method() == Method::CONNECT {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405: this is no proxy that connects to others");
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (named, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return text(StatusCode::BAD_REQUEST, "400: the request names more than one host");
        }
        let authority = request.uri().authority().map(ToString::to_string);
        let named = named.and_then(|h| h.to_str().ok()).map(String::from);
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
        request: Request<Body>,
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
        let target = match &action.path {
            None => request.uri().path_and_query().cloned(),
            Some(change) => {
                let path = found.path(Some(change), request.uri().path());
                PathAndQuery::try_from(format!("{path}{}", query(request.uri()))).ok()
            }
        };
        let Some(target) = target else {
            return text(StatusCode::BAD_REQUEST, "400: the path is malformed");
        };
        let mut forwarding = pin!(self.forward(request, action, backend, target, host, entry));
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
        request: Request<Body>,
        action: &Action,
        backend: &Backend,
        target: PathAndQuery,
        host: &str,
        entry: &Entry,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let upgrade = parts.extensions.get::<Upgrade>().cloned();
        let length = body.length();
        if let (Some(most), Some(length)) = (action.largest_body, length)
            && length > most
        {
            return too_large();
        }
        // Of what came, if it stands there; nothing else is a host but what can be in a header.
        let named = parts.headers.get(header::HOST).filter(|named| named.as_bytes() == host.as_bytes()).cloned();
        let Some(named) = named.or_else(|| HeaderValue::from_str(host).ok()) else {
            return text(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let mut headers = onward_headers(parts.headers, named, entry);
        if parts.version == Version::HTTP_2 {
            // What was about the client's connection (RFC 9113, section 8.2.2).
            headers.remove(header::TE);
            headers.remove(header::EXPECT);
        }
        action.request.apply(&mut headers);
        backend.request.apply(&mut headers);
        if let Some(host) = action.host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()) {
            headers.insert(header::HOST, host);
        }
        let may_upgrade = upgrade.is_some();
        let mut onward = Request::new(());
        if let Some(upgrade) = upgrade {
            onward.extensions_mut().insert(upgrade);
        }
        *onward.method_mut() = parts.method;
        *onward.uri_mut() = target.into();
        *onward.headers_mut() = headers;
        let mut bodies = match Bodies::new(body, length, action.largest_body).await {
            Ok(bodies) => bodies,
            Err(error) => return failed_body(&error),
        };
        let (mut tried, mut last) = (Vec::new(), String::new());
        while let Some(number) = another(backend.endpoints.len(), &tried) {
            let endpoint = &backend.endpoints[number];
            let mut asking = pin!(async {
                match backend.protocol.is_grpc() {
                    true => Box::pin(self.ask_by_http2(endpoint, backend, &onward, &mut bodies)).await,
                    false => self.ask(endpoint, backend, &onward, &mut bodies).await,
                }
            });
            let outcome = match action.backend_timeout {
                None => asking.await,
                Some(limit) => {
                    tokio::time::timeout(limit, &mut asking).await.unwrap_or_else(|_| Err(Failure::of(Trouble::Silent)))
                }
            };
            let failure = match outcome {
                Ok(answer) => return back(answer, may_upgrade),
                Err(failure) => failure,
            };
            tracing::debug!(error = %failure.trouble, %endpoint, backend = backend.name, "a backend didn't answer");
            match &failure.trouble {
                Trouble::Body(error) => return failed_body(error),
                Trouble::Silent => {
                    let why = format!("504: {} at {endpoint} didn't answer in time", backend.name);
                    return text(StatusCode::GATEWAY_TIMEOUT, &why);
                }
                Trouble::Malformed(why) => {
                    last = format!("502: what {} at {endpoint} says is no answer: {why}", backend.name)
                }
                _ => last = format!("502: {} at {endpoint} can't be reached", backend.name),
            }
            // Only who was never reached can't have done anything yet.
            if !failure.never_reached {
                break;
            }
            tried.push(number);
        }
        text(StatusCode::BAD_GATEWAY, &last)
    }

    async fn ask(
        &self,
        endpoint: &Arc<str>,
        backend: &Backend,
        request: &Request<()>,
        bodies: &mut Bodies,
    ) -> Result<Response<Body>, Failure> {
        let secure = backend.protocol.is_secure();
        loop {
            // What is rare is boxed: all of a request's state is moved about, whether it is used or not.
            // One that was kept may be found to be closed: then the next, and at last a new one.
            let line = match self.lines.kept(endpoint, secure) {
                Some(line) => line,
                None => Box::pin(self.lines.connect(endpoint, secure)).await.map_err(Failure::unreached)?,
            };
            let was_kept = line.was_kept();
            let body = bodies.next().ok_or_else(|| Failure::of(Trouble::Closed))?;
            match self.lines.ask(line, request, body).await {
                Ok(answer) => return Ok(answer),
                // A backend may have done something at a request, and be asked again only where that does no harm (RFC 9110, 9.2.2).
                Err(trouble) if was_kept && request.method().is_idempotent() && closed(&trouble) => {}
                Err(trouble) => return Err(Failure::of(trouble)),
            }
        }
    }

    async fn ask_by_http2(
        &self,
        endpoint: &str,
        backend: &Backend,
        request: &Request<()>,
        bodies: &mut Bodies,
    ) -> Result<Response<Body>, Failure> {
        let fail = |error: BoxError| Failure::of(Trouble::Io(std::io::Error::other(error)));
        let body = bodies.next().ok_or_else(|| Failure::of(Trouble::Closed))?;
        let mut request = request.clone().map(|()| body);
        let scheme = if backend.protocol.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(endpoint.parse().map_err(|e: http::uri::InvalidUri| fail(e.into()))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| fail(e.into()))?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().remove(header::HOST);
        let asking = tokio::time::timeout(RESPONSE_TIMEOUT, self.grpc.request(request));
        match asking.await.map_err(|_| Failure::of(Trouble::Silent))? {
            Ok(answer) => Ok(answer.map(Body::Stream)),
            Err(error) if over(&error) => Err(Failure::of(Trouble::Body(error.into()))),
            Err(error) => Err(Failure { never_reached: error.is_connect(), ..fail(error.into()) }),
        }
    }
}

/// One of so many endpoints that wasn't tried yet, each as often as the others; none, if enough were.
fn another(endpoints: usize, tried: &[usize]) -> Option<usize> {
    let left = endpoints.saturating_sub(tried.len());
    if left == 0 || tried.len() == MAX_ATTEMPTS {
        return None;
    }
    let at = if left == 1 { 0 } else { rand::random_range(0..left) };
    (0..endpoints).filter(|number| !tried.contains(number)).nth(at)
}

/// What a request brings along, for as many tries as it can be given to.
enum Bodies {
    Kept(Bytes),
    Once(Option<Body>),
}

impl Bodies {
    async fn new(body: Body, length: Option<u64>, most: Option<u64>) -> Result<Self, BoxError> {
        if body.is_end_stream() {
            return Ok(Bodies::Kept(Bytes::new()));
        }
        if length.is_some_and(|length| length <= MAX_REPLAYED_BYTES) {
            let whole = Box::pin(bounded::body(body, MAX_REPLAYED_BYTES as usize)).await;
            return Ok(Bodies::Kept(whole?));
        }
        Ok(Bodies::Once(Some(match most.and_then(|most| usize::try_from(most).ok()) {
            Some(most) => Body::Limited(Box::new(Limited::new(body, most))),
            None => body,
        })))
    }

    fn next(&mut self) -> Option<Body> {
        match self {
            Bodies::Kept(bytes) => Some(Body::Whole(bytes.clone())),
            Bodies::Once(body) => body.take(),
        }
    }
}

/// Why a backend gave no answer.
struct Failure {
    trouble: Trouble,
    /// No backend can have seen anything of the request.
    never_reached: bool,
}

impl Failure {
    fn of(trouble: Trouble) -> Self {
        Failure { trouble, never_reached: false }
    }

    fn unreached(error: std::io::Error) -> Self {
        Failure { trouble: Trouble::Io(error), never_reached: true }
    }
}

/// Whether a connection ended before anything of an answer came.
fn closed(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Closed => true,
        Trouble::Io(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        _ => false,
    }
}

fn failed_body(error: &BoxError) -> Response<Body> {
    if let Some(Trouble::Silent) = error.downcast_ref() {
        return text(StatusCode::REQUEST_TIMEOUT, "408: the rest of the body doesn't come");
    }
    if over(&**error) { too_large() } else { text(StatusCode::BAD_REQUEST, "400: the body is cut off or malformed") }
}

fn too_large() -> Response<Body> {
    text(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows")
}

/// Whether a body turned out to be too large on its way.
fn over(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
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

/// The query of a target with its question mark, if it has one.
fn query(uri: &Uri) -> String {
    uri.query().map(|query| format!("?{query}")).unwrap_or_default()
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
    let target = format!("{scheme}://{}{port}{path}{}", to.host.as_deref().unwrap_or(host), query(uri));
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

/// The headers that a backend gets: those of the client, and who he is. What he says of himself in their place isn't believed.
fn onward_headers(mut headers: HeaderMap, host: HeaderValue, entry: &Entry) -> HeaderMap {
    headers.insert(header::HOST, host.clone());
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
    headers
}

/// An answer on its way back.
fn back(answer: Response<Body>, may_upgrade: bool) -> Response<Body> {
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS if !may_upgrade => {
            text(StatusCode::BAD_GATEWAY, "502: the backend changed protocols unasked")
        }
        _ => answer,
    }
}

/// Serves a client's connection: HTTP, or HTTPS with `tls`.
pub async fn client(stream: TcpStream, from: SocketAddr, port: u16, tls: Option<Arc<ServerConfig>>, handler: Handler) {
    let entry = Entry::new(from, port, tls.is_some());
    let (wire, by_http2) = match tls {
        None => {
            let mut wire = Wire::new(Either::Left(stream));
            let Ok(by_http2) = inbound::speaks_http2(&mut wire).await else { return };
            (wire, by_http2)
        }
        Some(tls) => {
            let hello = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream));
            let Ok(Ok(stream)) = hello.await else { return };
            let by_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Wire::new(Either::Right(stream.into())), by_http2)
        }
    };
    if by_http2 {
        http2_connection(wire, handler, entry).await;
    } else {
        let (handler, entry) = (&handler, &entry);
        inbound::serve(wire, |request| handler.handle(request, entry)).await;
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
            tracing::warn!(%error, "failed to accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn http2_connection(wire: Wire, handler: Handler, entry: Entry) {
    let shared = Arc::new((handler, entry));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.0.handle(request.map(Body::Stream), &shared.1).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(200).keep_alive_interval(Some(HANDSHAKE_TIMEOUT));
    if let Err(error) = builder.serve_connection(TokioIo::new(wire), service).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
