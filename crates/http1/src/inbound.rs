//! Connections from clients: one request after the other.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use parking_lot::Mutex;

use crate::Body;
use crate::framing::{Decoder, Encoder, Length, Step};
use crate::head::{self, Announced, Message};
use crate::{Patience, Trouble, Wire};

/// How long a client may take for a request's head, with the wait for a next one, to send any of its body, and to take any of an answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, a client is listened to who still sends what nobody wants: would his connection be closed at once,
/// he might never read why (RFC 9112, section 9.6).
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1 << 20);
/// How much of the next requests is taken in while one is served.
const MAX_PIPELINED_BYTES: usize = 64 << 10;

/// What of a connection the body of a request needs, too.
struct Client {
    wire: Wire,
    decoder: Decoder,
    /// The client waits for a word before it sends the body (RFC 9110, section 10.1.1).
    expects: bool,
    patience: Patience,
}

/// The body of a request.
pub struct FromClient {
    client: Arc<Mutex<Client>>,
    /// Somebody waits for more of it. Only then it counts how long the client keeps silent.
    waits: bool,
}

impl FromClient {
    pub fn left(&self) -> Option<u64> {
        self.client.lock().decoder.left()
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Trouble>>> {
        let client = &mut *self.client.lock();
        if std::mem::take(&mut client.expects) {
            client.wire.out().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if client.wire.has_output()
            && let Poll::Ready(Err(error)) = client.wire.poll_flush(cx)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        loop {
            match client.decoder.step(&mut client.wire.input) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(trouble) => return Poll::Ready(Some(Err(trouble))),
            }
            match client.wire.poll_fill(cx) {
                Poll::Ready(Ok(true)) => self.waits = false,
                Poll::Ready(Ok(false)) => return Poll::Ready(Some(Err(Trouble::Closed))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    if !std::mem::replace(&mut self.waits, true) {
                        client.patience.renew(HEAD_TIMEOUT);
                    }
                    return client.patience.poll(cx).map(|()| Some(Err(Trouble::Silent)));
                }
            }
        }
    }
}

/// What is done with a connection after an answer.
enum After {
    Next,
    Close,
    /// It is joined to that of the backend.
    Join(Box<Wire>),
}

struct Inbound {
    client: Arc<Mutex<Client>>,
}

/// Serves a connection until either side has had enough.
pub async fn serve<F>(wire: Wire, mut handle: impl FnMut(Request<Body>) -> F)
where
    F: Future<Output = Response<Body>>,
{
    let client = Client { wire, decoder: Decoder::Done, expects: false, patience: Patience::new(HEAD_TIMEOUT) };
    let mut inbound = Inbound { client: Arc::new(Mutex::new(client)) };
    let outcome = loop {
        match inbound.exchange(&mut handle).await {
            Ok(After::Next) => {}
            Ok(After::Close) => break inbound.linger().await,
            Ok(After::Join(backend)) => break inbound.join(backend).await,
            Err(trouble) => break Err(trouble),
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client connection ended with an error");
    }
}

impl Inbound {
    async fn exchange<F>(&mut self, handle: &mut impl FnMut(Request<Body>) -> F) -> Result<After, Trouble>
    where
        F: Future<Output = Response<Body>>,
    {
        self.client.lock().patience.renew(HEAD_TIMEOUT);
        let Message { head, length, stays, expects } = match self.request().await {
            Ok(Some(request)) => request,
            Ok(None) | Err(Trouble::Silent | Trouble::Io(_) | Trouble::Closed) => return Ok(After::Close),
            Err(trouble) => return self.refuse(&trouble).await,
        };
        let (method, version) = (head.method().clone(), head.version());
        let body = self.body(length, expects);
        let request = head.map(|()| body);
        let answer = {
            let mut handling = pin!(handle(request));
            let answered = std::future::poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => self.client.lock().poll_gone(cx).map(|()| None),
            });
            match answered.await {
                Some(answer) => answer,
                // Nobody is there any more who would read an answer; whoever makes it is told by the end of his connection.
                None => return Err(Trouble::Closed),
            }
        };
        self.answer(answer, &method, version, stays).await
    }

    /// The head of the next request; nothing if there is no other.
    async fn request(&mut self) -> Result<Option<Message<Request<()>>>, Trouble> {
        let (client, mut looked) = (&self.client, 0);
        std::future::poll_fn(|cx| {
            let Client { wire, patience, .. } = &mut *client.lock();
            loop {
                if let Some(request) = head::request(&mut wire.input, &mut looked)? {
                    return Poll::Ready(Ok(Some(request)));
                }
                match wire.poll_fill(cx)? {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) if wire.input.is_empty() => return Poll::Ready(Ok(None)),
                    Poll::Ready(false) => return Poll::Ready(Err(Trouble::Closed)),
                    Poll::Pending => return patience.poll(cx).map(|()| Err(Trouble::Silent)),
                }
            }
        })
        .await
    }

    fn body(&self, length: Length, expects: bool) -> Body {
        if length == Length::Exact(0) {
            return Body::default();
        }
        let mut client = self.client.lock();
        client.decoder = Decoder::new(length);
        client.expects = expects;
        drop(client);
        Body::Client(FromClient { client: self.client.clone(), waits: false })
    }

    /// Tells of what can't be read as a request.
    async fn refuse(&mut self, trouble: &Trouble) -> Result<After, Trouble> {
        let code = match trouble {
            Trouble::LargeHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let answer = crate::text(code, &format!("{}: {trouble}", code.as_u16()));
        // Where what follows would begin isn't known.
        self.client.lock().decoder = Decoder::Close;
        self.answer(answer, &Method::GET, Version::HTTP_11, false).await
    }

    async fn answer(
        &mut self,
        answer: Response<Body>,
        to: &Method,
        version: Version,
        stays: bool,
    ) -> Result<After, Trouble> {
        let (mut head, mut body) = answer.into_parts();
        let status = head.status;
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let length = body.length();
        let (mut encoder, announced) = match length {
            _ if *to == Method::HEAD || head::has_no_body(status) => (Encoder::Nothing, Announced::AsTold),
            Some(length) => (Encoder::Exact(length), Announced::Length(length)),
            None if version == Version::HTTP_11 => (Encoder::Chunked, Announced::Chunked),
            None => (Encoder::Close, Announced::None),
        };
        let joined = matches!(body, Body::Upgraded(_));
        let stays = {
            let client = &mut *self.client.lock();
            // Once there is an answer, no other word may come into it.
            client.expects = false;
            let stays = stays && client.decoder.is_done() && !matches!(encoder, Encoder::Close);
            let connection = match version {
                _ if joined => None,
                _ if !stays => Some("close"),
                Version::HTTP_10 => Some("keep-alive"),
                _ => None,
            };
            let head = Response::from_parts(head, ());
            head::write_answer(&head, &announced, connection, client.wire.out());
            stays
        };
        self.send(&mut body, &mut encoder).await?;
        Ok(match body {
            Body::Upgraded(backend) => After::Join(backend),
            _ if stays => After::Next,
            _ => After::Close,
        })
    }

    /// Sends the rest of an answer.
    async fn send(&mut self, body: &mut Body, encoder: &mut Encoder) -> Result<(), Trouble> {
        let client = &self.client;
        let (mut ended, mut sent, mut cut_off) = (matches!(encoder, Encoder::Nothing), 0, None);
        std::future::poll_fn(|cx| {
            loop {
                // Not while the client is locked: the body may be what it says itself.
                let mut waits = false;
                while !ended && !client.lock().wire.is_full() {
                    match http_body::Body::poll_frame(Pin::new(&mut *body), cx) {
                        Poll::Ready(Some(Ok(frame))) => {
                            if let Ok(data) = frame.into_data() {
                                encoder.data(data, &mut client.lock().wire)?;
                            }
                        }
                        // What came before is sent all the same; that it isn't all shows.
                        Poll::Ready(Some(Err(error))) => {
                            cut_off = Some(Trouble::Body(error));
                            ended = true;
                        }
                        Poll::Ready(None) => {
                            encoder.end(&mut client.lock().wire)?;
                            ended = true;
                        }
                        Poll::Pending => {
                            waits = true;
                            break;
                        }
                    }
                }
                let client = &mut *client.lock();
                match client.wire.poll_flush(cx)? {
                    Poll::Ready(()) if ended => return Poll::Ready(cut_off.take().map_or(Ok(()), Err)),
                    Poll::Ready(()) if waits => return client.poll_gone(cx).map(|()| Err(Trouble::Closed)),
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        // It counts how long the client takes nothing at all.
                        if std::mem::replace(&mut sent, client.wire.sent()) != client.wire.sent() {
                            client.patience.renew(HEAD_TIMEOUT);
                        }
                        return client.patience.poll(cx).map(|()| Err(Trouble::Silent));
                    }
                }
            }
        })
        .await
    }

    /// Closes a connection, when the client has read what it was told.
    async fn linger(self) -> Result<(), Trouble> {
        let client = self.client;
        std::future::poll_fn(|cx| client.lock().wire.poll_shutdown(cx)).await?;
        if client.lock().decoder.is_done() {
            return Ok(());
        }
        let mut left = LINGER.1;
        let listening = std::future::poll_fn(|cx| {
            let wire = &mut client.lock().wire;
            while left > 0 && ready!(wire.poll_fill(cx))? {
                left = left.saturating_sub(wire.input.len());
                wire.input.clear();
            }
            Poll::Ready(Ok::<_, io::Error>(()))
        });
        let _ = tokio::time::timeout(LINGER.0, listening).await;
        Ok(())
    }

    /// Passes on whatever comes, both ways.
    async fn join(self, mut backend: Box<Wire>) -> Result<(), Trouble> {
        let Some(client) = Arc::into_inner(self.client) else { return Err(Trouble::Closed) };
        let mut wire = client.into_inner().wire;
        tokio::io::copy_bidirectional(&mut wire, &mut *backend).await?;
        Ok(())
    }
}

impl Client {
    /// Ready when the client has closed its connection, while it has nothing more to say of the present request.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.decoder.is_done() && self.wire.input.len() < MAX_PIPELINED_BYTES {
            if let Ok(true) = ready!(self.wire.poll_fill(cx)) {
                continue;
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Whether a client that begins like this speaks HTTP/2, as far as can be told yet.
pub async fn speaks_http2(wire: &mut Wire) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut patience = Patience::new(HEAD_TIMEOUT);
    std::future::poll_fn(|cx| {
        loop {
            let some = wire.input.len().min(PREFACE.len());
            if wire.input[..some] != PREFACE[..some] || some == PREFACE.len() {
                return Poll::Ready(Ok(some == PREFACE.len() && wire.input[..some] == *PREFACE));
            }
            match wire.poll_fill(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(false)),
                Poll::Pending => return patience.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            }
        }
    })
    .await
}
