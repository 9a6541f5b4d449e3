//! The reverse proxy: from a request to the response of a backend.

use std::pin::pin;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http1::{Body, HttpError, Upgrade, text_response};

use crate::SharedTable;
use crate::access_log::AccessLogEntry;
use crate::downstream::Downstream;
use crate::table::{Backend, Redirect, RouteAction, RouteMatch};
use crate::upstream::{
    ReplayableBody, Upstream, UpstreamError, choose_backend, next_endpoint, request_body_error, too_large,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");

/// The reverse proxy of a worker thread.
#[derive(Clone)]
pub struct ReverseProxy {
    table: SharedTable,
    upstream: Upstream,
}

impl ReverseProxy {
    /// A proxy without connections, which routes by `table`.
    pub fn new(table: SharedTable) -> Self {
        ReverseProxy { table, upstream: Upstream::new() }
    }

    /// Closes connections to backends that were idle for longer than a minute.
    pub fn close_idle_connections(&self) {
        self.upstream.close_idle_connections();
    }

    /// Responds to a request: finds its route, and forwards it or redirects the client.
    pub async fn handle(&self, request: Request<Body>, downstream: &Downstream) -> Response<Body> {
        if *request.method() == Method::CONNECT {
            return text_response(StatusCode::METHOD_NOT_ALLOWED, "405: CONNECT isn't supported");
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (named, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return text_response(StatusCode::BAD_REQUEST, "400: the request names more than one host");
        }
        let authority = request.uri().authority().map(ToString::to_string);
        let named = named.and_then(|h| h.to_str().ok()).map(String::from);
        let Some(host) = authority.or(named) else {
            return text_response(StatusCode::BAD_REQUEST, "400: the request names no host");
        };
        let Ok(name) = host.parse::<Authority>() else {
            return text_response(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let (parts, body) = request.into_parts();
        let found = self.table.get().ports.get(&downstream.port).and_then(|port| port.hosts.route(name.host(), &parts));
        let Some(found) = found else {
            return text_response(
                StatusCode::NOT_FOUND,
                "404: no Ingress or HTTPRoute has a rule for this host and path",
            );
        };
        let log_entry = found.action.log.then(|| AccessLogEntry::new(&host, &parts, downstream));
        let response = self.respond(Request::from_parts(parts, body), &found, name.host(), &host, downstream).await;
        if let Some(log_entry) = log_entry {
            log_entry.log(&found, response.status());
        }
        response
    }

    async fn respond(
        &self,
        request: Request<Body>,
        found: &RouteMatch,
        name: &str,
        host: &str,
        downstream: &Downstream,
    ) -> Response<Body> {
        let action = &found.action;
        if let Some(why) = &action.access.refused {
            return text_response(StatusCode::SERVICE_UNAVAILABLE, &format!("503: {why}"));
        }
        if !action.access.allows(downstream.from) {
            return text_response(StatusCode::FORBIDDEN, "403: this address may not use this host and path");
        }
        if let Some(to) = action.redirect.as_ref().filter(|to| !(to.only_http && downstream.secure)) {
            return redirect(to, found, name, request.uri(), downstream);
        }
        let origin = action.cors.as_ref().and_then(|cors| Some((cors, cors.allowed(request.headers())?)));
        if let Some((cors, origin)) = origin.as_ref().filter(|_| *request.method() == Method::OPTIONS) {
            let mut response = text_response(StatusCode::NO_CONTENT, "");
            cors.apply(origin, response.headers_mut());
            return response;
        }
        let mut response = self.respond_from_backend(request, found, host, downstream).await;
        if let Some((cors, origin)) = &origin {
            cors.apply(origin, response.headers_mut());
        }
        response
    }

    /// The response of the backend that a request goes to.
    async fn respond_from_backend(
        &self,
        request: Request<Body>,
        found: &RouteMatch,
        host: &str,
        downstream: &Downstream,
    ) -> Response<Body> {
        let action = &found.action;
        let canary = action
            .canary
            .as_ref()
            .filter(|canary| canary.takes(request.headers(), rand::random_range(0..canary.total.max(1))));
        let Some(backend) = canary.map(|canary| &canary.backend).or_else(|| choose_backend(&action.backends)) else {
            return text_response(StatusCode::INTERNAL_SERVER_ERROR, "500: the route names no backend");
        };
        if let Some(why) = &backend.invalid {
            return text_response(StatusCode::INTERNAL_SERVER_ERROR, &format!("500: {why}"));
        }
        if backend.endpoints.is_empty() {
            let why = format!("503: service {} has no endpoint that is ready", backend.name);
            return text_response(StatusCode::SERVICE_UNAVAILABLE, &why);
        }
        let target = match &action.path {
            None => request.uri().path_and_query().cloned(),
            Some(change) => {
                let path = found.rewrite_path(Some(change), request.uri().path());
                PathAndQuery::try_from(format!("{path}{}", query(request.uri()))).ok()
            }
        };
        let Some(target) = target else {
            return text_response(StatusCode::BAD_REQUEST, "400: the path is malformed");
        };
        let mut forwarding = pin!(self.forward(request, action, backend, target, host, downstream));
        let mut response = match action.timeout {
            None => forwarding.as_mut().await,
            Some(limit) => tokio::time::timeout(limit, forwarding).await.unwrap_or_else(|_| {
                let why = format!("504: {} didn't respond within {}s", backend.name, limit.as_secs_f64());
                text_response(StatusCode::GATEWAY_TIMEOUT, &why)
            }),
        };
        backend.response.apply(response.headers_mut());
        action.response.apply(response.headers_mut());
        response
    }

    /// Sends a request to endpoints of a backend, one after the other, until one of them responds.
    async fn forward(
        &self,
        request: Request<Body>,
        action: &RouteAction,
        backend: &Backend,
        target: PathAndQuery,
        host: &str,
        downstream: &Downstream,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let length = body.length();
        if action.max_body_bytes.zip(length).is_some_and(|(limit, length)| length > limit) {
            return too_large();
        }
        let may_upgrade = parts.extensions.get::<Upgrade>().is_some();
        let Some(request) = upstream_request(parts, action, backend, target, host, downstream) else {
            return text_response(StatusCode::BAD_REQUEST, "400: the request's host is malformed");
        };
        let mut body = match ReplayableBody::new(body, length, action.max_body_bytes).await {
            Ok(body) => body,
            Err(error) => return request_body_error(&error),
        };
        let (mut tried, mut last) = (Vec::new(), String::new());
        while let Some(number) = next_endpoint(backend.endpoints.len(), &tried) {
            let endpoint = &backend.endpoints[number];
            let mut sending = pin!(self.upstream.send(endpoint, backend, &request, &mut body));
            let outcome = match action.backend_timeout {
                None => sending.await,
                Some(limit) => tokio::time::timeout(limit, &mut sending)
                    .await
                    .unwrap_or_else(|_| Err(UpstreamError::of(HttpError::TimedOut))),
            };
            let failure = match outcome {
                Ok(response) => return checked_response(response, may_upgrade),
                Err(failure) => failure,
            };
            tracing::debug!(error = %failure.error, %endpoint, backend = backend.name, "a backend didn't respond");
            match &failure.error {
                HttpError::Body(error) => return request_body_error(error),
                HttpError::TimedOut => {
                    let why = format!("504: {} at {endpoint} didn't respond in time", backend.name);
                    return text_response(StatusCode::GATEWAY_TIMEOUT, &why);
                }
                HttpError::Malformed(why) => {
                    last = format!("502: the response of {} at {endpoint} is malformed: {why}", backend.name)
                }
                _ => last = format!("502: {} at {endpoint} can't be reached", backend.name),
            }
            // A request that reached no backend can be sent to another one, whatever its method.
            if !failure.not_connected {
                break;
            }
            tried.push(number);
        }
        text_response(StatusCode::BAD_GATEWAY, &last)
    }
}

/// The head of the request to a backend; none if its host can't stand in a header.
fn upstream_request(
    parts: Parts,
    action: &RouteAction,
    backend: &Backend,
    target: PathAndQuery,
    host: &str,
    downstream: &Downstream,
) -> Option<Request<()>> {
    // The client's own header is reused where it has the host already.
    let named = parts.headers.get(header::HOST).filter(|named| named.as_bytes() == host.as_bytes()).cloned();
    let named = named.or_else(|| HeaderValue::from_str(host).ok())?;
    let mut headers = forwarded_headers(parts.headers, named, downstream);
    if parts.version == Version::HTTP_2 {
        // These concern the client's connection alone (RFC 9113, section 8.2.2).
        headers.remove(header::TE);
        headers.remove(header::EXPECT);
    }
    action.request.apply(&mut headers);
    backend.request.apply(&mut headers);
    if let Some(host) = action.host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()) {
        headers.insert(header::HOST, host);
    }
    let mut request = Request::new(());
    if let Some(upgrade) = parts.extensions.get::<Upgrade>() {
        request.extensions_mut().insert(upgrade.clone());
    }
    *request.method_mut() = parts.method;
    *request.uri_mut() = target.into();
    *request.headers_mut() = headers;
    Some(request)
}

/// The query of a URI with its question mark; empty if it has none.
fn query(uri: &Uri) -> String {
    uri.query().map(|query| format!("?{query}")).unwrap_or_default()
}

fn redirect(to: &Redirect, found: &RouteMatch, host: &str, uri: &Uri, downstream: &Downstream) -> Response<Body> {
    if let Some(url) = &to.url {
        return redirect_to(to.code, url);
    }
    let own = if downstream.secure { "https" } else { "http" };
    let scheme = to.scheme.as_deref().unwrap_or(own);
    let usual = if scheme == "https" { 443 } else { 80 };
    // A redirect to another scheme goes to that scheme's default port.
    let port = to.port.unwrap_or(if scheme == own { downstream.port } else { usual });
    let port = if port == usual { String::new() } else { format!(":{port}") };
    let path = match &to.path {
        Some(change) => found.rewrite_path(Some(change), uri.path()),
        None => uri.path().to_string(),
    };
    redirect_to(to.code, &format!("{scheme}://{}{port}{path}{}", to.host.as_deref().unwrap_or(host), query(uri)))
}

fn redirect_to(code: StatusCode, target: &str) -> Response<Body> {
    let mut response = text_response(code, &format!("{}: this is at {target}", code.as_u16()));
    if let Ok(location) = HeaderValue::from_str(target) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The request headers for a backend: the client's, with `X-Forwarded-*` and `X-Real-IP` replaced by our own, as the client's aren't trusted.
fn forwarded_headers(mut headers: HeaderMap, host: HeaderValue, downstream: &Downstream) -> HeaderMap {
    headers.insert(header::HOST, host.clone());
    let scheme = HeaderValue::from_static(if downstream.secure { "https" } else { "http" });
    let ours = [
        (FORWARDED_FOR, downstream.client.clone()),
        (REAL_IP, downstream.client.clone()),
        (FORWARDED_PROTO, scheme.clone()),
        (FORWARDED_SCHEME, scheme.clone()),
        (SCHEME, scheme),
        (FORWARDED_HOST, host),
        (FORWARDED_PORT, downstream.port_text.clone()),
    ];
    for (name, value) in ours {
        headers.insert(name, value);
    }
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(format!("{:032x}", rand::random::<u128>())))
    {
        headers.insert(REQUEST_ID, id);
    }
    headers
}

/// A response, unless the backend switches protocols without having been asked to.
fn checked_response(response: Response<Body>, may_upgrade: bool) -> Response<Body> {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS if !may_upgrade => {
            text_response(StatusCode::BAD_GATEWAY, "502: the backend switched protocols without a request")
        }
        _ => response,
    }
}
