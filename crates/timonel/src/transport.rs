//! The agent's way to its server: connections that notice when the other end is gone, requests that end, and a certificate that is
//! replaced while it is in use.
//!
//! All requests of the agent share a connection of HTTP/2. It is given up when the server doesn't answer a ping, when the kernel gets no
//! acknowledgement, or when a new one can't be made in time. What isn't a watch must be answered in time; a watch asks for bookmarks, so it is
//! never silent for long either. client-go has the same three: pings of HTTP/2, a time-out of the dialer, and time-outs of requests.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{Instant, Sleep};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    /// How often the server is asked whether it is there, and how long it has to answer.
    pub ping: Duration,
    /// Until the head of an answer comes, and between two parts of its body.
    pub answer: Duration,
    /// Between two lines of a watch; the server sends a bookmark every minute.
    pub watch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            ping: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(150),
        }
    }
}

impl Limits {
    /// A server may be silent for this long before it is given up.
    pub fn of(silence: Duration) -> Self {
        Limits { connect: silence / 3, ping: silence / 2, answer: silence, ..Limits::default() }
    }
}

/// Why a request failed, with all the reasons behind it.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{0}")]
    Failed(String),
    #[error("the server gave no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("nothing came from the server for {0:?}")]
    Silent(Duration),
    #[error("--server {0:?} can't be used: it must read https://ADDRESS:6443")]
    Address(String),
    #[error("the certificate of the server's authority can't be used: {0}")]
    Authority(String),
}

impl TransportError {
    fn of(error: &(dyn Error + 'static)) -> Self {
        TransportError::Failed(reasons(error))
    }
}

/// An error with its causes; what one of them repeats of the next is left out.
pub fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if let Some(last) = texts.last_mut()
            && let Some(own) = last.strip_suffix(text.as_str())
        {
            *last = own.trim_end_matches([' ', ':']).to_string();
        }
        texts.retain(|text| !text.is_empty());
        texts.push(text);
        next = error.source();
    }
    texts.join(": ")
}

/// Who the server must be.
pub enum Trust<'a> {
    /// One whose certificate this authority (PEM) signed.
    Authority(&'a str),
    /// Anybody, as for the first question, whose answer is checked otherwise.
    Anybody,
}

/// Whom the server sees.
pub enum Identity {
    Nobody,
    Certificate(Arc<pki::RotatingCertificate>),
    Token(String),
}

/// The address of a server, checked: `https://NAME[:PORT]` and no more.
///
/// # Errors
/// When it is anything else.
pub fn address(server: &str) -> Result<Uri, TransportError> {
    let refuse = || TransportError::Address(server.into());
    let uri: Uri = server.trim_end_matches('/').parse().map_err(|_| refuse())?;
    let is_bare = uri.path_and_query().is_none_or(|p| p.as_str() == "/");
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if uri.scheme_str() == Some("https") && has_host && is_bare { Ok(uri) } else { Err(refuse()) }
}

type Connector = HttpsConnector<HttpConnector>;
type HyperClient = legacy::Client<Connector, Body>;

struct Inner {
    base: Uri,
    header: Option<HeaderValue>,
    limits: Limits,
    connector: Connector,
    client: RwLock<HyperClient>,
    /// Whether the last connection failed because the server showed a certificate that isn't trusted.
    distrusts: AtomicBool,
}

/// A service for [`kube::Client`]. Clones share the connection.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

impl Transport {
    /// # Errors
    /// When the address or the authority's certificate can't be used.
    pub fn new(server: &str, trust: &Trust<'_>, identity: Identity, limits: Limits) -> Result<Self, TransportError> {
        let header = match &identity {
            Identity::Token(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| TransportError::Failed("the token has characters that no token has".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let connector = connector(trust, identity, limits)?;
        let client = RwLock::new(client(connector.clone(), limits));
        Ok(Transport(Arc::new(Inner {
            base: address(server)?,
            header,
            limits,
            connector,
            client,
            distrusts: AtomicBool::default(),
        })))
    }

    pub fn kube(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Lets requests from now on take a new connection, which shows the certificate as it is now. Those that are under way stay where
    /// they are.
    pub fn reconnect(&self) {
        *self.0.client.write() = client(self.0.connector.clone(), self.0.limits);
    }

    /// Whether the server showed a certificate last that isn't trusted.
    pub fn distrusts(&self) -> bool {
        self.0.distrusts.load(Ordering::Relaxed)
    }
}

fn is_distrust(error: &TransportError) -> bool {
    matches!(error, TransportError::Failed(why) if why.contains("invalid peer certificate"))
}

fn connector(trust: &Trust<'_>, identity: Identity, limits: Limits) -> Result<Connector, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = |e: &dyn std::fmt::Display| TransportError::Authority(e.to_string());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| TransportError::of(&e))?;
    let builder = match trust {
        Trust::Authority(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| authority(&e))?;
            roots.add(certificate).map_err(|e| authority(&e))?;
            builder.with_root_certificates(roots)
        }
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pki::InsecureSkipVerify::new(provider)))
        }
    };
    let mut tls = match identity {
        Identity::Certificate(rotating) => builder.with_client_cert_resolver(rotating),
        Identity::Nobody | Identity::Token(_) => builder.with_no_client_auth(),
    };
    // A session that is resumed is that of the certificate of before.
    tls.resumption = rustls::client::Resumption::disabled();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(limits.connect));
    http.set_keepalive(Some(network::keepalive::IDLE));
    http.set_keepalive_interval(Some(network::keepalive::INTERVAL));
    http.set_keepalive_retries(Some(network::keepalive::PROBES));
    http.set_tcp_user_timeout(Some(limits.answer.min(network::keepalive::USER_TIMEOUT)));
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().wrap_connector(http))
}

fn client(connector: Connector, limits: Limits) -> HyperClient {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_only(true)
        .http2_keep_alive_interval(limits.ping)
        .http2_keep_alive_timeout(limits.ping)
        .http2_keep_alive_while_idle(true)
        // A watch that isn't read for a while must not use up what all have together.
        .http2_initial_stream_window_size(256 << 10)
        .http2_initial_connection_window_size(16 << 20)
        .build(connector)
}

/// Whether an answer goes on until somebody ends it.
fn is_watch(uri: &Uri) -> bool {
    let mut parts = uri.query().unwrap_or("").split('&');
    parts.any(|part| matches!(part, "watch=true" | "watch=1" | "watch"))
}

impl tower::Service<Request<Body>> for Transport {
    type Response = Response<Bounded>;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        let mut parts = inner.base.clone().into_parts();
        let asked = request.uri().path_and_query().cloned();
        parts.path_and_query = Some(asked.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        if let Some(header) = &inner.header {
            request.headers_mut().insert(http::header::AUTHORIZATION, header.clone());
        }
        let between = if is_watch(request.uri()) { inner.limits.watch } else { inner.limits.answer };
        let asking = inner.client.read().request(request);
        Box::pin(async move {
            let limit = inner.limits.answer;
            let answer = tokio::time::timeout(limit, asking).await.map_err(|_| TransportError::NoAnswer(limit))?;
            let answer = answer.map_err(|e| TransportError::of(&e));
            inner.distrusts.store(answer.as_ref().is_err_and(is_distrust), Ordering::Relaxed);
            Ok(answer?.map(|body| Bounded { body, between, rest: Box::pin(tokio::time::sleep(between)) }))
        })
    }
}

/// A body that fails when nothing comes for too long.
pub struct Bounded {
    body: Incoming,
    between: Duration,
    rest: Pin<Box<Sleep>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = TransportError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.between;
            self.rest.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(|e| TransportError::of(&e))));
        }
        ready!(self.rest.as_mut().poll(cx));
        Poll::Ready(Some(Err(TransportError::Silent(self.between))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
