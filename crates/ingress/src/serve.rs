//! Connections from outside, and what happens to a request on its way to a backend.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
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
use tokio_rustls::TlsAcceptor;

use crate::Shared;
use crate::routes::Backend;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How long a client may take to say hello, or to send its headers.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
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

type Connector = HttpsConnector<HttpConnector>;

/// Answers requests.
#[derive(Clone)]
pub struct Handler {
    routes: Shared,
    plain: Client<Connector, Body>,
    grpc: Client<Connector, Body>,
}

/// Where a request came in.
#[derive(Clone, Copy)]
struct Entry {
    from: IpAddr,
    secure: bool,
}

fn text(code: StatusCode, message: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{message}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl Handler {
    pub fn new(routes: Shared) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
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
            let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody)).with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http()
        };
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_idle_timeout(Duration::from_secs(60)).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
            builder
        };
        // Only HTTP/1.1 can be upgraded, so backends with TLS aren't offered more.
        let plain = builder().build(tls().enable_http1().wrap_connector(connector.clone()));
        let grpc = builder().http2_only(true).build(tls().enable_http2().wrap_connector(connector));
        Handler { routes, plain, grpc }
    }

    async fn handle(&self, request: Request<Incoming>, entry: Entry) -> Response<Body> {
        let authority = request.uri().authority().map(ToString::to_string);
        let named = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).map(String::from);
        let Some(host) = authority.or(named) else {
            return text(StatusCode::BAD_REQUEST, "400: the request names no host");
        };
        let Ok(name) = host.parse::<Authority>() else {
            return text(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let Some(found) = self.routes.get().find(name.host(), request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "404: no Ingress has a rule for this host and path");
        };
        let backend = found.backend.clone();
        if backend.redirect && !entry.secure {
            return redirect(name.host(), request.uri());
        }
        if backend.endpoints.is_empty() {
            let why = format!("503: service {} has no endpoint that is ready", backend.name);
            return text(StatusCode::SERVICE_UNAVAILABLE, &why);
        }
        self.forward(request, &backend, &found.path, &host, entry).await
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        backend: &Backend,
        path: &str,
        host: &str,
        entry: Entry,
    ) -> Response<Body> {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if let (Some(most), Some(length)) = (backend.largest_body, length)
            && length > most
        {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "413: the body is larger than the Ingress allows");
        }
        let headers = onward_headers(&parts.headers, host, entry, upgrade);
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_string(),
        };
        let most = backend.largest_body.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
        let mut body = Some(Limited::new(body, most).map_err(BoxError::from).boxed_unsync());
        let may_be_kept = length.is_some_and(|l| l <= KEPT) || matches!(parts.method, Method::GET | Method::HEAD);
        let kept = match may_be_kept {
            true => match body.take().unwrap_or_default().collect().await {
                Ok(whole) => Some(whole.to_bytes()),
                Err(error) => return failed_body(&error),
            },
            false => None,
        };
        let mut endpoints: Vec<&String> = backend.endpoints.iter().collect();
        endpoints.shuffle(&mut rand::rng());
        let mut last = String::new();
        for endpoint in endpoints.into_iter().take(3) {
            let body = match (&kept, body.take()) {
                (Some(bytes), _) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
                (None, Some(body)) => body,
                // A body that went to nobody can't be sent again.
                (None, None) => break,
            };
            let scheme = if backend.protocol.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
            let uri = Uri::builder().scheme(scheme).authority(endpoint.as_str()).path_and_query(target.as_str());
            let Ok(uri) = uri.build() else {
                return text(StatusCode::BAD_REQUEST, "400: the path is malformed");
            };
            let mut onward = Request::new(body);
            *onward.method_mut() = parts.method.clone();
            *onward.uri_mut() = uri;
            *onward.headers_mut() = headers.clone();
            let client = if backend.protocol.is_grpc() { &self.grpc } else { &self.plain };
            if backend.protocol.is_grpc() {
                *onward.version_mut() = Version::HTTP_2;
                onward.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
                onward.headers_mut().remove(header::HOST);
            }
            match tokio::time::timeout(ANSWER, client.request(onward)).await {
                Ok(Ok(answer)) => return back(answer, client_side),
                Ok(Err(error)) => {
                    if let Some(too_large) = over(&error) {
                        return too_large;
                    }
                    tracing::debug!(%error, endpoint, backend = backend.name, "a backend didn't answer");
                    last = format!("502: {} at {endpoint} can't be reached", backend.name);
                    // Only who was never reached can't have done anything yet.
                    if !error.is_connect() {
                        break;
                    }
                }
                Err(_) => {
                    let why = format!("504: {} at {endpoint} didn't answer within {}s", backend.name, ANSWER.as_secs());
                    return text(StatusCode::GATEWAY_TIMEOUT, &why);
                }
            }
        }
        text(StatusCode::BAD_GATEWAY, &last)
    }
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

fn redirect(host: &str, uri: &Uri) -> Response<Body> {
    let target = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "308: this is served by HTTPS");
    if let Ok(location) = HeaderValue::from_str(&format!("https://{host}{target}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The headers that a backend gets: those of the client without what is about his connection, and who he is. What he
/// says of himself in their place isn't believed.
fn onward_headers(from: &HeaderMap, host: &str, entry: Entry, upgrade: Option<HeaderValue>) -> HeaderMap {
    let named: Vec<String> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|n| n.trim().to_ascii_lowercase()))
        .collect();
    let mut headers = HeaderMap::with_capacity(from.len() + 6);
    for (name, value) in from {
        let about_connection = HOP_BY_HOP.contains(name) || named.iter().any(|n| n == name.as_str());
        if !about_connection && name != header::HOST && name.as_str() != "keep-alive" {
            headers.append(name, value.clone());
        }
    }
    let (scheme, port) = if entry.secure { ("https", "443") } else { ("http", "80") };
    let client = entry.from.to_canonical().to_string();
    let own = [
        ("host", host),
        ("x-forwarded-for", client.as_str()),
        ("x-real-ip", client.as_str()),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-scheme", scheme),
        ("x-scheme", scheme),
        ("x-forwarded-host", host),
        ("x-forwarded-port", port),
    ];
    for (name, value) in own {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if !headers.contains_key("x-request-id")
        && let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().simple().to_string())
    {
        headers.insert("x-request-id", id);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    headers
}

/// An answer on its way back.
fn back(mut answer: Response<Incoming>, client_side: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
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
    answer.headers_mut().remove("keep-alive");
    *answer.version_mut() = Version::default();
    answer.map(|body| body.map_err(BoxError::from).boxed_unsync())
}

/// Serves HTTP.
pub async fn plain(listener: TcpListener, handler: Handler) {
    loop {
        if let Some((stream, from)) = accept(&listener).await {
            tokio::spawn(connection(
                TokioIo::new(stream),
                handler.clone(),
                Entry { from: from.ip().to_canonical(), secure: false },
            ));
        }
    }
}

/// Serves HTTPS.
pub async fn secure(listener: TcpListener, tls: Arc<ServerConfig>, handler: Handler) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let Some((stream, from)) = accept(&listener).await else { continue };
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                connection(TokioIo::new(stream), handler, Entry { from: from.ip().to_canonical(), secure: true }).await;
            }
        });
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
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
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request, entry).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(200).keep_alive_interval(Some(PATIENCE));
    if let Err(error) = builder.serve_connection_with_upgrades(stream, service).await {
        tracing::debug!(%error, "a connection ended");
    }
}
