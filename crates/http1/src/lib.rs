//! HTTP/1.1 (RFC 9112) for a reverse proxy: connections from clients ([`inbound`]) and to backends ([`outbound`]).
//!
//! Heads are parsed by `httparse` ([`head`]); the length of a body is decided in one place ([`framing`]), and an ambiguous message is
//! rejected, since two parsers that disagree make request smuggling possible (RFC 9112, section 11.2). One task, that of the client's
//! connection, moves both the request and the response: nothing is handed to another task, and none is woken. That is why this crate exists
//! beside hyper, which serves everything else: a request through two of hyper's connections passes channels, tasks and timers, which cost as
//! much as all the rest of a proxy's work (`docs/benchmarks.md`).

#![warn(missing_docs, clippy::missing_errors_doc)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read what they wrote themselves"))]

mod body;
mod buffered_stream;
mod framing;
mod head;
pub mod inbound;
pub mod outbound;
#[cfg(test)]
mod tests;

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
pub use buffered_stream::BufferedStream;
pub use framing::{Decoded, Decoder, Length};
pub use head::{Message, Upgrade, request as read_request, response as read_response};

/// A TCP connection, with or without TLS.
pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// Limits of a message's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;

/// Why a request or response can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    /// The connection failed.
    Io(#[from] io::Error),
    #[error("the connection was closed in the middle")]
    /// The peer closed the connection before the message ended.
    Closed,
    #[error("{0}")]
    /// The message violates RFC 9112 or is ambiguous.
    Malformed(&'static str),
    #[error("the head is larger than {} KiB or has more than {MAX_HEADERS} headers", MAX_HEAD_BYTES >> 10)]
    /// The head exceeds the limits.
    HeadTooLarge,
    /// The peer neither sent nor read anything within the timeout.
    #[error("the peer timed out")]
    TimedOut,
    /// The source of the body that is being sent failed.
    #[error(transparent)]
    Body(BoxError),
}

/// A deadline that is cheap to move: the timer behind it is rearmed only when it fires.
struct Deadline {
    until: Instant,
    timer: Pin<Box<Sleep>>,
}

/// The moment when `limit` is over; one that no clock reaches counts as a year.
fn after(limit: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(limit).or_else(|| now.checked_add(YEAR)).unwrap_or(now)
}

impl Deadline {
    fn new(limit: Duration) -> Self {
        let until = after(limit);
        Deadline { until, timer: Box::pin(tokio::time::sleep_until(until)) }
    }

    fn reset(&mut self, limit: Duration) {
        self.until = after(limit);
        if self.until < self.timer.deadline() {
            self.timer.as_mut().reset(self.until);
        }
    }

    /// Ready once the deadline has passed.
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

/// A plain-text response of the proxy itself.
pub fn text_response(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(format!("{message}\n").into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
