//! Connections to backends, in a pool. A connection is driven by the task of the request that uses it: a task of its own would cost every
//! request four more wake-ups, often of the other core.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use crate::Body;
use crate::framing::{Decoded, Decoder, Encoder};
use crate::head::{self, BodyFraming, Message};
use crate::{BufferedStream, Deadline, HttpError, Stream};

/// Timeout of connecting, with the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for a backend to send more of a response, and to read more of a request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection stays in the pool without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections per endpoint.
const MAX_IDLE_CONNECTIONS: usize = 256;
/// Interim responses that may precede a final one, such as 103 (RFC 8297).
const MAX_INTERIM_RESPONSES: u32 = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// `address:port`
    endpoint: Arc<str>,
    secure: bool,
}

/// A connection to a backend.
pub struct Connection {
    key: Key,
    stream: BufferedStream,
    deadline: Deadline,
    /// The rest of a request's body, which is still to be sent.
    request: Option<(Body, Encoder)>,
    /// Why no more of the request can be sent. The backend may have responded nevertheless.
    send_error: Option<HttpError>,
    /// Whether the connection persists after this response.
    keep_alive: bool,
    /// Whether it had an earlier request, so that the backend may have closed it meanwhile.
    reused: bool,
}

impl Connection {
    /// Whether it could take a request: it has no leftover input and isn't closed. No waker is registered.
    fn is_idle(&mut self) -> bool {
        let idle =
            self.keep_alive && self.request.is_none() && self.send_error.is_none() && self.stream.input.is_empty();
        idle && self.stream.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether it had an earlier request.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends as much of the request as possible. Ready when nothing is left to send, also after an error.
    fn poll_send_request(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let outcome = ready!(self.poll_write_request(cx));
        self.request = None;
        if let Err(error) = outcome {
            self.send_error = Some(error);
        }
        Poll::Ready(())
    }

    fn poll_write_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        loop {
            let mut waits = false;
            while let Some((body, encoder)) = &mut self.request
                && !self.stream.is_write_buffer_full()
            {
                match http_body::Body::poll_frame(Pin::new(body), cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data() {
                            encoder.data(data, &mut self.stream)?;
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(HttpError::Body(error))),
                    Poll::Ready(None) => {
                        encoder.end(&mut self.stream)?;
                        self.request = None;
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            ready!(self.stream.poll_flush(cx))?;
            if self.request.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn is_sending_request(&self) -> bool {
        self.request.is_some() || (self.stream.has_pending_output() && self.send_error.is_none())
    }

    /// The head of the response, while the request is still being sent.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        (scanned, interim): (&mut usize, &mut u32),
    ) -> Poll<Result<Message<Response<()>>, HttpError>> {
        if self.is_sending_request() {
            let before = self.stream.bytes_sent();
            let _ = self.poll_send_request(cx);
            // An error of the request's body is reported rather than what the backend makes of it.
            if let Some(HttpError::Body(_)) = &self.send_error
                && let Some(error) = self.send_error.take()
            {
                return Poll::Ready(Err(error));
            }
            if self.stream.bytes_sent() != before {
                self.deadline.reset(RESPONSE_TIMEOUT);
            }
        }
        loop {
            while let Some(message) = head::response(&mut self.stream.input, scanned, method)? {
                let status = message.head.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(message));
                }
                *interim = interim.saturating_add(1);
                if *interim > MAX_INTERIM_RESPONSES {
                    return Poll::Ready(Err(HttpError::Malformed("too many interim responses")));
                }
            }
            match self.stream.poll_fill(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Err(HttpError::Closed)),
                Poll::Pending => return self.deadline.poll(cx).map(|()| Err(HttpError::TimedOut)),
            }
        }
    }
}

/// Idle connections to backends.
#[derive(Clone)]
pub struct ConnectionPool {
    // A connection is boxed once, as it moves with every request.
    #[expect(clippy::vec_box)]
    idle: Arc<Mutex<HashMap<Key, Vec<Box<Connection>>>>>,
    tls: TlsConnector,
}

impl ConnectionPool {
    /// An empty pool, with this client configuration of TLS.
    pub fn new(tls: TlsConnector) -> Self {
        ConnectionPool { idle: Arc::default(), tls }
    }

    /// Takes an idle connection, if there is one. `secure` asks for TLS.
    pub fn take_idle(&self, endpoint: &Arc<str>, secure: bool) -> Option<Box<Connection>> {
        let key = Key { endpoint: endpoint.clone(), secure };
        loop {
            let mut connection = self.idle.lock().get_mut(&key)?.pop()?;
            if connection.is_idle() {
                return Some(connection);
            }
        }
    }

    /// Opens a connection to `address:port`. `secure` asks for TLS.
    ///
    /// # Errors
    /// When connecting fails or takes longer than 5 s.
    pub async fn connect(&self, endpoint: &Arc<str>, secure: bool) -> io::Result<Box<Connection>> {
        let connecting = async {
            let stream = TcpStream::connect(&**endpoint).await?;
            stream.set_nodelay(true)?;
            if !secure {
                return Ok::<Stream, io::Error>(Either::Left(stream));
            }
            let host = endpoint.rsplit_once(':').map_or(&**endpoint, |(host, _)| host);
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(io::Error::other)?;
            Ok(Either::Right(self.tls.connect(name, stream).await?.into()))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let key = Key { endpoint: endpoint.clone(), secure };
        let (stream, deadline) = (BufferedStream::new(stream), Deadline::new(RESPONSE_TIMEOUT));
        Ok(Box::new(Connection {
            key,
            stream,
            deadline,
            request: None,
            send_error: None,
            keep_alive: true,
            reused: false,
        }))
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// When the connection is closed or times out before it, or the response is malformed.
    pub async fn send_request(
        &self,
        mut connection: Box<Connection>,
        head: &Request<()>,
        body: Body,
    ) -> Result<Response<Body>, HttpError> {
        let method = head.method();
        // Methods that need no body get no Content-Length of 0 (RFC 9110, section 8.6).
        let bodiless = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE);
        let (encoder, framing) = match body.length() {
            Some(0) if bodiless => (Encoder::Exact(0), BodyFraming::None),
            Some(length) => (Encoder::Exact(length), BodyFraming::Length(length)),
            None => (Encoder::Chunked, BodyFraming::Chunked),
        };
        head::write_request(head, &framing, connection.stream.out());
        connection.request = Some((body, encoder)).filter(|(body, _)| !http_body::Body::is_end_stream(body));
        connection.deadline.reset(RESPONSE_TIMEOUT);
        let (mut scanned, mut interim) = (0, 0);
        let answering = std::future::poll_fn(|cx| connection.poll_response(cx, method, (&mut scanned, &mut interim)));
        let Message { head, length, keep_alive, .. } = answering.await?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(head.map(|()| Body::Upgraded(Box::new(connection.stream))));
        }
        connection.keep_alive = keep_alive;
        let mut body = ResponseBody { decoder: Decoder::new(length), connection: Some(connection), pool: self.clone() };
        // A body that arrived with the head needs no further polling.
        let body = match body.read_buffered()? {
            Some(whole) => Body::Whole(whole),
            None => Body::Response(body),
        };
        Ok(head.map(|()| body))
    }

    fn put_idle(&self, mut connection: Box<Connection>) {
        connection.reused = true;
        let mut idle = self.idle.lock();
        match idle.get_mut(&connection.key) {
            Some(connections) if connections.len() >= MAX_IDLE_CONNECTIONS => {}
            Some(connections) => connections.push(connection),
            None => {
                idle.insert(connection.key.clone(), vec![connection]);
            }
        }
    }

    /// Closes connections that were idle for longer than a minute.
    pub fn close_idle(&self) {
        let mut old = Vec::new();
        self.idle.lock().retain(|_, connections| {
            // Its last response came before its deadline.
            old.extend(connections.extract_if(.., |connection| connection.deadline.until.elapsed() > IDLE_TIMEOUT));
            !connections.is_empty()
        });
    }
}

/// The body of a response. It owns the connection until it has been read to its end.
pub struct ResponseBody {
    decoder: Decoder,
    connection: Option<Box<Connection>>,
    pool: ConnectionPool,
}

impl ResponseBody {
    /// Remaining bytes of the body, if known.
    pub fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// The whole body, if all of it arrived with the head.
    fn read_buffered(&mut self) -> Result<Option<Bytes>, HttpError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let whole = match self.decoder.remaining() {
            Some(0) => Bytes::new(),
            Some(remaining) if remaining <= connection.stream.input.len() as u64 => {
                match self.decoder.step(&mut connection.stream.input)? {
                    Decoded::Data(data) => data,
                    Decoded::NeedInput | Decoded::End => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        self.release();
        Ok(Some(whole))
    }

    /// The next bytes of the body; `None` at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, HttpError>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        if connection.is_sending_request() {
            let _ = connection.poll_send_request(cx);
        }
        loop {
            match self.decoder.step(&mut connection.stream.input) {
                Ok(Decoded::Data(data)) => {
                    if self.decoder.is_done() {
                        self.release();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Decoded::End) => {
                    self.release();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedInput) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(connection.stream.poll_fill(cx)) {
                Ok(true) => {}
                Ok(false) if self.decoder == Decoder::Close => {
                    self.decoder = Decoder::Done;
                    return Poll::Ready(None);
                }
                Ok(false) => return Poll::Ready(Some(Err(HttpError::Closed))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Returns the connection to the pool, if it can take another request.
    fn release(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && !connection.is_sending_request()
            && connection.is_idle()
        {
            self.pool.put_idle(connection);
        }
    }
}
