//! HTTP/1.1 (RFC 9112) as a proxy speaks it, with clients ([`inbound`]) and with backends ([`outbound`]).
//!
//! Heads are parsed by `httparse` ([`head`]); where a body ends is decided in one place ([`framing`]), and what is in doubt is refused rather
//! than guessed, as two that read a message differently are how requests are smuggled (RFC 9112, section 11.2). A request and its
//! answer are moved along by one task, that of the client's connection: nothing is handed over, and nobody else is woken. That is why this
//! is here beside hyper, which serves all else: a request through two of its connections is handed on by channels, tasks and timers,
//! which cost as much as all the rest that a proxy does (`docs/benchmarks.md`).

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod body;
mod framing;
mod head;
pub mod inbound;
pub mod outbound;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsStream;
use tokio_util::either::Either;

pub use body::{Body, BoxError};
pub use framing::{Decoder, Length, Step};
pub use head::{Message, Upgrade, answer as read_answer, request as read_request};
pub use wire::Wire;

/// A connection, in the clear or not.
pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// The largest head, in bytes, and the most headers in it.
const HEAD: usize = 64 << 10;
const HEADERS: usize = 100;

/// Why an exchange can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection was closed in the middle")]
    Closed,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the head is larger than {} KiB or has more than {HEADERS} headers", HEAD >> 10)]
    LargeHead,
    #[error("nothing came for too long")]
    Silent,
    /// Of who gives the body that is to be sent.
    #[error(transparent)]
    Body(BoxError),
}

/// How long something may take. Renewing it costs next to nothing: the timer behind it is looked after only when it rings.
struct Patience {
    until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        let until = Instant::now() + limit;
        Patience { until, timer: Box::pin(tokio::time::sleep_until(until)) }
    }

    fn renew(&mut self, limit: Duration) {
        self.until = Instant::now() + limit;
        if self.until < self.timer.deadline() {
            self.timer.as_mut().reset(self.until);
        }
    }

    /// Ready when the time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.until {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.until);
        }
        Poll::Pending
    }
}

/// An answer of our own, in words for people.
pub fn text(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(format!("{message}\n").into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
