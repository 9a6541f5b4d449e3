//! Connections to backends over HTTP/1.1. They are kept for the next request, and moved along by the task that uses them: a
//! connection with a task of its own would cost every request four more wake-ups, often of the other core.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(60);
/// How many connections to an endpoint are kept.
const KEPT: usize = 256;

/// A body on its way, in either direction.
pub enum Body {
    Whole(Bytes),
    /// From a client, up to what it may send.
    Client(Limited<Incoming>),
    /// From a backend by HTTP/2.
    Stream(Incoming),
    /// From a backend by HTTP/1.1.
    Answer(Answer),
}

impl Default for Body {
    fn default() -> Self {
        Body::Whole(Bytes::new())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::Whole(Bytes::from_static(text.as_bytes()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Client(body) => Pin::new(body).poll_frame(cx),
            Body::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Answer(body) => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Client(body) => body.is_end_stream(),
            Body::Stream(body) => body.is_end_stream(),
            Body::Answer(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Client(body) => body.size_hint(),
            Body::Stream(body) => body.size_hint(),
            Body::Answer(body) => body.incoming.size_hint(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// `address:port`
    endpoint: Arc<str>,
    secure: bool,
}

/// A connection, and the way to send requests on it.
pub struct Line {
    key: Key,
    sender: SendRequest<Body>,
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    /// Nothing more comes of it.
    ended: bool,
    /// When the last request was done; none for one that had none.
    used: Option<Instant>,
}

type Stream = Either<TcpStream, TlsStream<TcpStream>>;

impl Line {
    /// Moves the connection along as far as it goes now.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.ended = self.ended || self.connection.as_mut().poll(cx).is_ready();
    }

    /// Whether it could take a request. Nobody is woken for what comes of looking.
    fn is_free(&mut self) -> bool {
        self.go_on(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }

    /// Whether it had a request before this one, so that the backend may have given it up meanwhile.
    pub fn was_kept(&self) -> bool {
        self.used.is_some()
    }
}

/// Why there is no answer; with the request, if no backend can have seen any of it.
pub struct Unanswered {
    pub error: hyper::Error,
    pub request: Option<Request<Body>>,
}

/// The connections that wait for a request.
#[derive(Clone)]
pub struct Lines {
    // Boxed from its making on, as it is handed about with every request.
    #[expect(clippy::vec_box)]
    kept: Arc<Mutex<HashMap<Key, Vec<Box<Line>>>>>,
    tls: TlsConnector,
}

impl Lines {
    pub fn new(tls: TlsConnector) -> Self {
        Lines { kept: Arc::default(), tls }
    }

    /// A connection that is there already.
    pub fn kept(&self, endpoint: &Arc<str>, secure: bool) -> Option<Box<Line>> {
        let key = Key { endpoint: endpoint.clone(), secure };
        loop {
            let mut line = self.kept.lock().get_mut(&key)?.pop()?;
            if line.is_free() {
                return Some(line);
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the endpoint can't be reached.
    pub async fn connect(&self, endpoint: &Arc<str>, secure: bool) -> io::Result<Box<Line>> {
        let connecting = async {
            let stream = TcpStream::connect(&**endpoint).await?;
            stream.set_nodelay(true)?;
            if !secure {
                return Ok::<Stream, io::Error>(Either::Left(stream));
            }
            let host = endpoint.rsplit_once(':').map_or(&**endpoint, |(host, _)| host);
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(io::Error::other)?;
            Ok(Either::Right(self.tls.connect(name, stream).await?))
        };
        let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let key = Key { endpoint: endpoint.clone(), secure };
        let connection = Box::pin(connection.with_upgrades());
        Ok(Box::new(Line { key, sender, connection, ended: false, used: None }))
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the connection ended without one.
    pub async fn ask(&self, mut line: Box<Line>, request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        let answer = {
            let mut answer = pin!(line.sender.try_send_request(request));
            poll_fn(|cx| {
                line.ended = line.ended || line.connection.as_mut().poll(cx).is_ready();
                answer.as_mut().poll(cx)
            })
            .await
        };
        let answer = answer.map_err(|mut e| Unanswered { request: e.take_message(), error: e.into_error() })?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // From here on it is nobody's but the two ends'.
            tokio::spawn(async move {
                let _ = line.connection.await;
                drop(line.sender);
            });
            return Ok(answer.map(Body::Stream));
        }
        Ok(answer.map(|incoming| Body::Answer(Answer { incoming, line: Some(line), lines: self.clone() })))
    }

    fn keep(&self, mut line: Box<Line>) {
        line.used = Some(Instant::now());
        let mut kept = self.kept.lock();
        match kept.get_mut(&line.key) {
            Some(lines) if lines.len() >= KEPT => {}
            Some(lines) => lines.push(line),
            None => {
                kept.insert(line.key.clone(), vec![line]);
            }
        }
    }

    /// Closes what waited for too long.
    pub fn sweep(&self) {
        let mut old = Vec::new();
        self.kept.lock().retain(|_, lines| {
            old.extend(lines.extract_if(.., |line| line.used.is_none_or(|used| used.elapsed() > IDLE)));
            !lines.is_empty()
        });
    }
}

/// The body of an answer, which takes its connection along until all of it was read.
pub struct Answer {
    incoming: Incoming,
    line: Option<Box<Line>>,
    lines: Lines,
}

impl Answer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // The first look tells the connection that somebody wants more.
        if let ready @ Poll::Ready(_) = http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx) {
            return ready;
        }
        if let Some(line) = &mut self.line {
            line.go_on(cx);
        }
        http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        if http_body::Body::is_end_stream(&self.incoming) && line.is_free() {
            self.lines.keep(line);
        }
    }
}
