//! Bodies of requests and responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;

use crate::BufferedStream;
use crate::inbound::RequestBody;
use crate::outbound::ResponseBody;

/// An error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way through the proxy.
pub enum Body {
    /// In memory.
    Whole(Bytes),
    /// A request's, from a client's connection.
    Request(RequestBody),
    /// A response's, from a backend's connection.
    Response(ResponseBody),
    /// From a connection of HTTP/2.
    Stream(Incoming),
    /// Another body, with a limit in bytes.
    Limited(Box<Limited<Body>>),
    /// No body, but the connection to a backend that switched protocols.
    Upgraded(Box<BufferedStream>),
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

impl Body {
    /// Its length in bytes, if known.
    pub fn length(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Upgraded(_) => Poll::Ready(None),
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Request(body) => body.poll_data(cx).map(|data| data.map(|d| d.map(Frame::data).map_err(Into::into))),
            Body::Response(body) => body.poll_data(cx).map(|data| data.map(|d| d.map(Frame::data).map_err(Into::into))),
            Body::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Limited(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Upgraded(_) => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Request(body) => body.remaining() == Some(0),
            Body::Response(body) => body.remaining() == Some(0),
            Body::Stream(body) => body.is_end_stream(),
            Body::Limited(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let known = |remaining: Option<u64>| remaining.map_or_else(SizeHint::default, SizeHint::with_exact);
        match self {
            Body::Upgraded(_) => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Request(body) => known(body.remaining()),
            Body::Response(body) => known(body.remaining()),
            Body::Stream(body) => body.size_hint(),
            Body::Limited(body) => body.size_hint(),
        }
    }
}
