//! Bodies on their way, in either direction.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;

use crate::Wire;
use crate::inbound::FromClient;
use crate::outbound::Answer;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub enum Body {
    Whole(Bytes),
    /// From a client.
    Client(FromClient),
    /// From a backend.
    Answer(Answer),
    /// By HTTP/2, from either.
    Stream(Incoming),
    /// As much of another as is allowed.
    Limited(Box<Limited<Body>>),
    /// None, but the connection to a backend that changed its protocol.
    Upgraded(Box<Wire>),
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
    /// How long it is, if that is known.
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
            Body::Client(body) => body.poll_data(cx).map(|data| data.map(|d| d.map(Frame::data).map_err(Into::into))),
            Body::Answer(body) => body.poll_data(cx).map(|data| data.map(|d| d.map(Frame::data).map_err(Into::into))),
            Body::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Limited(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Upgraded(_) => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Client(body) => body.left() == Some(0),
            Body::Answer(body) => body.left() == Some(0),
            Body::Stream(body) => body.is_end_stream(),
            Body::Limited(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let known = |left: Option<u64>| left.map_or_else(SizeHint::default, SizeHint::with_exact);
        match self {
            Body::Upgraded(_) => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Client(body) => known(body.left()),
            Body::Answer(body) => known(body.left()),
            Body::Stream(body) => body.size_hint(),
            Body::Limited(body) => body.size_hint(),
        }
    }
}
