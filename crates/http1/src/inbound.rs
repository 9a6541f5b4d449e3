//! Connections from clients, with one request after the other.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use parking_lot::Mutex;

use crate::Body;
use crate::framing::{Decoded, Decoder, Encoder, Length};
use crate::head::{self, BodyFraming, Message};
use crate::{BufferedStream, Deadline, HttpError};

/// Timeout for a client to send a request's head (including the idle time before it), to send more of a body, and to read more of a response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits of a lingering close: after the response, input that isn't needed any more is read and dropped. If the connection were closed at
/// once, the client might never read the response (RFC 9112, section 9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: usize = 1 << 20;
/// How much of pipelined requests is buffered while one is served.
const MAX_PIPELINED_BYTES: usize = 64 << 10;

/// The parts of a connection that the body of its current request shares.
struct Client {
    stream: BufferedStream,
    decoder: Decoder,
    /// The client waits for 100 (Continue) before it sends the body (RFC 9110, section 10.1.1).
    expect_continue: bool,
    deadline: Deadline,
}

/// The body of a request.
pub struct RequestBody {
    client: Arc<Mutex<Client>>,
    /// A reader waits for more of the body. Only then the client's timeout runs.
    waits: bool,
}

impl RequestBody {
    /// Remaining bytes of the body, if known.
    pub fn remaining(&self) -> Option<u64> {
        self.client.lock().decoder.remaining()
    }

    /// The next bytes of the body; `None` at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, HttpError>>> {
        let client = &mut *self.client.lock();
        if std::mem::take(&mut client.expect_continue) {
            client.stream.out().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if client.stream.has_pending_output()
            && let Poll::Ready(Err(error)) = client.stream.poll_flush(cx)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        loop {
            match client.decoder.step(&mut client.stream.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedInput) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match client.stream.poll_fill(cx) {
                Poll::Ready(Ok(true)) => self.waits = false,
                Poll::Ready(Ok(false)) => return Poll::Ready(Some(Err(HttpError::Closed))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    if !std::mem::replace(&mut self.waits, true) {
                        client.deadline.reset(HEAD_TIMEOUT);
                    }
                    return client.deadline.poll(cx).map(|()| Some(Err(HttpError::TimedOut)));
                }
            }
        }
    }
}

/// What to do with a connection after a response.
enum NextStep {
    Next,
    Close,
    /// Bytes are copied between it and the backend's connection, after an upgrade.
    Tunnel(Box<BufferedStream>),
}

struct Inbound {
    client: Arc<Mutex<Client>>,
}

/// Serves requests of a connection until either side closes it.
pub async fn serve<F>(stream: BufferedStream, mut handle: impl FnMut(Request<Body>) -> F)
where
    F: Future<Output = Response<Body>>,
{
    let client =
        Client { stream, decoder: Decoder::Done, expect_continue: false, deadline: Deadline::new(HEAD_TIMEOUT) };
    let mut inbound = Inbound { client: Arc::new(Mutex::new(client)) };
    let outcome = loop {
        match inbound.exchange(&mut handle).await {
            Ok(NextStep::Next) => {}
            Ok(NextStep::Close) => break inbound.linger().await,
            Ok(NextStep::Tunnel(backend)) => break inbound.tunnel(backend).await,
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client connection ended with an error");
    }
}

impl Inbound {
    async fn exchange<F>(&mut self, handle: &mut impl FnMut(Request<Body>) -> F) -> Result<NextStep, HttpError>
    where
        F: Future<Output = Response<Body>>,
    {
        self.client.lock().deadline.reset(HEAD_TIMEOUT);
        let Message { head, length, keep_alive, expect_continue } = match self.request().await {
            Ok(Some(request)) => request,
            Ok(None) | Err(HttpError::TimedOut | HttpError::Io(_) | HttpError::Closed) => return Ok(NextStep::Close),
            Err(error) => return self.reject(&error).await,
        };
        let (method, version) = (head.method().clone(), head.version());
        let body = self.body(length, expect_continue);
        let request = head.map(|()| body);
        let response = {
            let mut handling = pin!(handle(request));
            let responded = std::future::poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => self.client.lock().poll_disconnected(cx).map(|()| None),
            });
            match responded.await {
                Some(response) => response,
                // The client is gone. Dropping the handler closes its connection to the backend.
                None => return Err(HttpError::Closed),
            }
        };
        self.respond(response, &method, version, keep_alive).await
    }

    /// The head of the next request; `None` if the client closes the connection instead.
    async fn request(&mut self) -> Result<Option<Message<Request<()>>>, HttpError> {
        let (client, mut scanned) = (&self.client, 0);
        std::future::poll_fn(|cx| {
            let Client { stream, deadline, .. } = &mut *client.lock();
            loop {
                if let Some(request) = head::request(&mut stream.input, &mut scanned)? {
                    return Poll::Ready(Ok(Some(request)));
                }
                match stream.poll_fill(cx)? {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) if stream.input.is_empty() => return Poll::Ready(Ok(None)),
                    Poll::Ready(false) => return Poll::Ready(Err(HttpError::Closed)),
                    Poll::Pending => return deadline.poll(cx).map(|()| Err(HttpError::TimedOut)),
                }
            }
        })
        .await
    }

    fn body(&self, length: Length, expect_continue: bool) -> Body {
        if length == Length::Exact(0) {
            return Body::default();
        }
        let mut client = self.client.lock();
        client.decoder = Decoder::new(length);
        client.expect_continue = expect_continue;
        drop(client);
        Body::Request(RequestBody { client: self.client.clone(), waits: false })
    }

    /// Responds to a request that can't be parsed.
    async fn reject(&mut self, error: &HttpError) -> Result<NextStep, HttpError> {
        let code = match error {
            HttpError::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let response = crate::text_response(code, &format!("{}: {error}", code.as_u16()));
        // It isn't known where the next request would begin.
        self.client.lock().decoder = Decoder::Close;
        self.respond(response, &Method::GET, Version::HTTP_11, false).await
    }

    async fn respond(
        &mut self,
        response: Response<Body>,
        to: &Method,
        version: Version,
        keep_alive: bool,
    ) -> Result<NextStep, HttpError> {
        let (mut head, mut body) = response.into_parts();
        let status = head.status;
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let length = body.length();
        let (mut encoder, framing) = match length {
            _ if *to == Method::HEAD || head::has_no_body(status) => (Encoder::Nothing, BodyFraming::AsInHeaders),
            Some(length) => (Encoder::Exact(length), BodyFraming::Length(length)),
            None if version == Version::HTTP_11 => (Encoder::Chunked, BodyFraming::Chunked),
            None => (Encoder::Close, BodyFraming::None),
        };
        let joined = matches!(body, Body::Upgraded(_));
        let keep_alive = {
            let client = &mut *self.client.lock();
            // After the final response no 100 (Continue) may be sent.
            client.expect_continue = false;
            let keep_alive = keep_alive && client.decoder.is_done() && !matches!(encoder, Encoder::Close);
            let connection = match version {
                _ if joined => None,
                _ if !keep_alive => Some("close"),
                Version::HTTP_10 => Some("keep-alive"),
                _ => None,
            };
            let head = Response::from_parts(head, ());
            head::write_response(&head, &framing, connection, client.stream.out());
            keep_alive
        };
        self.send(&mut body, &mut encoder).await?;
        Ok(match body {
            Body::Upgraded(backend) => NextStep::Tunnel(backend),
            _ if keep_alive => NextStep::Next,
            _ => NextStep::Close,
        })
    }

    /// Sends the body of a response.
    async fn send(&mut self, body: &mut Body, encoder: &mut Encoder) -> Result<(), HttpError> {
        let client = &self.client;
        let (mut ended, mut bytes_sent, mut cut_off) = (matches!(encoder, Encoder::Nothing), 0, None);
        std::future::poll_fn(|cx| {
            loop {
                // The client must not be locked here: the response's body may come from the request's.
                let mut waits = false;
                while !ended && !client.lock().stream.is_write_buffer_full() {
                    match http_body::Body::poll_frame(Pin::new(&mut *body), cx) {
                        Poll::Ready(Some(Ok(frame))) => {
                            if let Ok(data) = frame.into_data() {
                                encoder.data(data, &mut client.lock().stream)?;
                            }
                        }
                        // The bytes before the failure are still sent; the client sees that the body is incomplete.
                        Poll::Ready(Some(Err(error))) => {
                            cut_off = Some(HttpError::Body(error));
                            ended = true;
                        }
                        Poll::Ready(None) => {
                            encoder.end(&mut client.lock().stream)?;
                            ended = true;
                        }
                        Poll::Pending => {
                            waits = true;
                            break;
                        }
                    }
                }
                let client = &mut *client.lock();
                match client.stream.poll_flush(cx)? {
                    Poll::Ready(()) if ended => return Poll::Ready(cut_off.take().map_or(Ok(()), Err)),
                    Poll::Ready(()) if waits => return client.poll_disconnected(cx).map(|()| Err(HttpError::Closed)),
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        // The timeout runs while the client reads nothing at all.
                        if std::mem::replace(&mut bytes_sent, client.stream.bytes_sent()) != client.stream.bytes_sent()
                        {
                            client.deadline.reset(HEAD_TIMEOUT);
                        }
                        return client.deadline.poll(cx).map(|()| Err(HttpError::TimedOut));
                    }
                }
            }
        })
        .await
    }

    /// Lingering close (RFC 9112, section 9.6).
    async fn linger(self) -> Result<(), HttpError> {
        let client = self.client;
        std::future::poll_fn(|cx| client.lock().stream.poll_shutdown(cx)).await?;
        if client.lock().decoder.is_done() {
            return Ok(());
        }
        let mut remaining = MAX_LINGER_BYTES;
        let listening = std::future::poll_fn(|cx| {
            let stream = &mut client.lock().stream;
            while remaining > 0 && ready!(stream.poll_fill(cx))? {
                remaining = remaining.saturating_sub(stream.input.len());
                stream.input.clear();
            }
            Poll::Ready(Ok::<_, io::Error>(()))
        });
        let _ = tokio::time::timeout(LINGER_TIMEOUT, listening).await;
        Ok(())
    }

    /// Copies bytes in both directions after an upgrade.
    async fn tunnel(self, mut backend: Box<BufferedStream>) -> Result<(), HttpError> {
        let Some(client) = Arc::into_inner(self.client) else { return Err(HttpError::Closed) };
        let mut stream = client.into_inner().stream;
        tokio::io::copy_bidirectional(&mut stream, &mut *backend).await?;
        Ok(())
    }
}

impl Client {
    /// Ready when the client has closed its connection, once its current request is complete.
    fn poll_disconnected(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.decoder.is_done() && self.stream.input.len() < MAX_PIPELINED_BYTES {
            if let Ok(true) = ready!(self.stream.poll_fill(cx)) {
                continue;
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Whether the client begins with the preface of HTTP/2 (RFC 9113, section 3.4).
///
/// # Errors
/// Of the connection, and `TimedOut` when the client sends nothing.
pub async fn speaks_http2(stream: &mut BufferedStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut deadline = Deadline::new(HEAD_TIMEOUT);
    std::future::poll_fn(|cx| {
        loop {
            let some = stream.input.len().min(PREFACE.len());
            if stream.input[..some] != PREFACE[..some] || some == PREFACE.len() {
                return Poll::Ready(Ok(some == PREFACE.len() && stream.input[..some] == *PREFACE));
            }
            match stream.poll_fill(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(false)),
                Poll::Pending => return deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            }
        }
    })
    .await
}
