//! Connections to backends. They are kept for the next request, and moved along by the task that uses them: a connection with a task of
//! its own would cost every request four more wake-ups, often of the other core.

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
use crate::framing::{Decoder, Encoder, Step};
use crate::head::{self, Announced, Message};
use crate::{Patience, Stream, Trouble, Wire};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a backend may keep silent, and how long it may take nothing of a request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection is kept without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many connections to an endpoint are kept.
const MAX_IDLE_CONNECTIONS: usize = 256;
/// Words that may come before an answer, such as 103 (RFC 8297).
const MAX_INTERIM_RESPONSES: u32 = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// `address:port`
    endpoint: Arc<str>,
    secure: bool,
}

/// A connection to a backend.
pub struct Line {
    key: Key,
    wire: Wire,
    patience: Patience,
    /// What of a request's body is still to go.
    sending: Option<(Body, Encoder)>,
    /// Why no more can be sent. An answer may be there all the same.
    unsent: Option<Trouble>,
    /// Whether the backend goes on with it after this answer.
    stays: bool,
    /// Whether it had a request before this one, so that the backend may have given it up meanwhile.
    used: bool,
}

impl Line {
    /// Whether it could take a request. Nobody is woken for what comes of looking.
    fn is_free(&mut self) -> bool {
        let idle = self.stays && self.sending.is_none() && self.unsent.is_none() && self.wire.input.is_empty();
        idle && self.wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether it had a request before this one.
    pub fn was_kept(&self) -> bool {
        self.used
    }

    /// Sends as much as goes. Ready when nothing is left, be it for a trouble.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let outcome = ready!(self.poll_sent(cx));
        self.sending = None;
        if let Err(trouble) = outcome {
            self.unsent = Some(trouble);
        }
        Poll::Ready(())
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        loop {
            let mut waits = false;
            while let Some((body, encoder)) = &mut self.sending
                && !self.wire.is_full()
            {
                match http_body::Body::poll_frame(Pin::new(body), cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data() {
                            encoder.data(data, &mut self.wire)?;
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Trouble::Body(error))),
                    Poll::Ready(None) => {
                        encoder.end(&mut self.wire)?;
                        self.sending = None;
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            ready!(self.wire.poll_flush(cx))?;
            if self.sending.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn is_sending(&self) -> bool {
        self.sending.is_some() || (self.wire.has_output() && self.unsent.is_none())
    }

    /// The head of the answer, while the request goes.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        (looked, interim): (&mut usize, &mut u32),
    ) -> Poll<Result<Message<Response<()>>, Trouble>> {
        if self.is_sending() {
            let before = self.wire.sent();
            let _ = self.poll_send(cx);
            // Who gives the body is to hear of what is wrong with it, whatever the backend says.
            if let Some(Trouble::Body(_)) = &self.unsent
                && let Some(trouble) = self.unsent.take()
            {
                return Poll::Ready(Err(trouble));
            }
            if self.wire.sent() != before {
                self.patience.renew(RESPONSE_TIMEOUT);
            }
        }
        loop {
            while let Some(message) = head::answer(&mut self.wire.input, looked, method)? {
                let status = message.head.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(message));
                }
                *interim = interim.saturating_add(1);
                if *interim > MAX_INTERIM_RESPONSES {
                    return Poll::Ready(Err(Trouble::Malformed("no answer follows what comes before one")));
                }
            }
            match self.wire.poll_fill(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Err(Trouble::Closed)),
                Poll::Pending => return self.patience.poll(cx).map(|()| Err(Trouble::Silent)),
            }
        }
    }
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
            Ok(Either::Right(self.tls.connect(name, stream).await?.into()))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let key = Key { endpoint: endpoint.clone(), secure };
        let (wire, patience) = (Wire::new(stream), Patience::new(RESPONSE_TIMEOUT));
        Ok(Box::new(Line { key, wire, patience, sending: None, unsent: None, stays: true, used: false }))
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the connection ended without one, or what came is none.
    pub async fn ask(&self, mut line: Box<Line>, head: &Request<()>, body: Body) -> Result<Response<Body>, Trouble> {
        let method = head.method();
        // What methods without a purpose for a body have of none needn't be said (RFC 9110, section 8.6).
        let bodiless = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE);
        let (encoder, announced) = match body.length() {
            Some(0) if bodiless => (Encoder::Exact(0), Announced::None),
            Some(length) => (Encoder::Exact(length), Announced::Length(length)),
            None => (Encoder::Chunked, Announced::Chunked),
        };
        head::write_request(head, &announced, line.wire.out());
        line.sending = Some((body, encoder)).filter(|(body, _)| !http_body::Body::is_end_stream(body));
        line.patience.renew(RESPONSE_TIMEOUT);
        let (mut looked, mut interim) = (0, 0);
        let answering = std::future::poll_fn(|cx| line.poll_answer(cx, method, (&mut looked, &mut interim)));
        let Message { head, length, stays, .. } = answering.await?;
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(head.map(|()| Body::Upgraded(Box::new(line.wire))));
        }
        line.stays = stays;
        let mut answer = Answer { decoder: Decoder::new(length), line: Some(line), lines: self.clone() };
        // What is here already needs nobody who waits for it.
        let body = match answer.at_once()? {
            Some(whole) => Body::Whole(whole),
            None => Body::Answer(answer),
        };
        Ok(head.map(|()| body))
    }

    fn keep(&self, mut line: Box<Line>) {
        line.used = true;
        let mut kept = self.kept.lock();
        match kept.get_mut(&line.key) {
            Some(lines) if lines.len() >= MAX_IDLE_CONNECTIONS => {}
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
            // What it waited for last came before its patience was at an end.
            old.extend(lines.extract_if(.., |line| line.patience.until.elapsed() > IDLE_TIMEOUT));
            !lines.is_empty()
        });
    }
}

/// The body of an answer, which has its connection until all of it was read.
pub struct Answer {
    decoder: Decoder,
    line: Option<Box<Line>>,
    lines: Lines,
}

impl Answer {
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// The whole body, if all of it came with the head.
    fn at_once(&mut self) -> Result<Option<Bytes>, Trouble> {
        let Some(line) = &mut self.line else { return Ok(None) };
        let whole = match self.decoder.left() {
            Some(0) => Bytes::new(),
            Some(left) if left <= line.wire.input.len() as u64 => match self.decoder.step(&mut line.wire.input)? {
                Step::Data(data) => data,
                Step::More | Step::End => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.done();
        Ok(Some(whole))
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Trouble>>> {
        let Some(line) = &mut self.line else { return Poll::Ready(None) };
        if line.is_sending() {
            let _ = line.poll_send(cx);
        }
        loop {
            match self.decoder.step(&mut line.wire.input) {
                Ok(Step::Data(data)) => {
                    if self.decoder.is_done() {
                        self.done();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => {
                    self.done();
                    return Poll::Ready(None);
                }
                Ok(Step::More) => {}
                Err(trouble) => return Poll::Ready(Some(Err(trouble))),
            }
            match ready!(line.wire.poll_fill(cx)) {
                Ok(true) => {}
                Ok(false) if self.decoder == Decoder::Close => {
                    self.decoder = Decoder::Done;
                    return Poll::Ready(None);
                }
                Ok(false) => return Poll::Ready(Some(Err(Trouble::Closed))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Gives the connection back, if it can have another request.
    fn done(&mut self) {
        if let Some(mut line) = self.line.take()
            && !line.is_sending()
            && line.is_free()
        {
            self.lines.keep(line);
        }
    }
}
